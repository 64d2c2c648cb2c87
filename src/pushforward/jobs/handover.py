"""The records and the feature spaces, handed to the jobs as one safetensors file each."""

from collections.abc import Sequence
from pathlib import Path

from .. import store
from ..data import Data, Records, Schema, reload
from ..spaces import FeatureSpace, read_spaces, spaces, write_spaces

SPLITS = ("train", "validation", "test")
FILE = "data.safetensors"
SPACES = "spaces.safetensors"


def hand_over(data: Data, folder: Path) -> None:
    """Write the records where the jobs find them."""
    tensors, dynamic = {}, {}
    for split in SPLITS:
        records: Records = getattr(data, split)
        tensors[f"{split}.x"], dynamic[split] = records.x, records.dynamic
        if records.condition is not None:
            tensors[f"{split}.condition"] = records.condition
    if data.order is not None:
        tensors["order"] = data.order
    meta = {**data.describe(), "dynamic": dynamic, "notes": list(data.notes), "truth": data.truth is not None}
    store.write_tensors(folder / FILE, tensors, meta)


def take_over(folder: Path) -> Data:
    """Read what `hand_over` wrote. Raises `RunError` when it is missing or damaged."""
    tensors, meta = store.read_tensors(folder / FILE)
    schema = Schema.from_json(meta["schema"])
    train, validation, test = (Records(schema, tensors[f"{s}.x"], tensors.get(f"{s}.condition"), meta["dynamic"][s]) for s in SPLITS)
    # The exact density of a built-in set: only its source can bring it back.
    truth = reload(meta).truth if meta["truth"] and meta["source"] is not None else None
    return Data(schema, train, validation, test, meta["source"], truth, tensors.get("order"), tuple(meta["notes"]))


def hand_over_spaces(data: Data, folder: Path, which: Sequence[str] | None = None, inception: str | None = None) -> None:
    """Make the feature spaces, once for all jobs, and write them there; Inception's leads where its file is given."""
    found = spaces(data, which=which, inception=inception)
    write_spaces(folder / SPACES, dict(sorted(found.items(), key=lambda pair: pair[0] != "inception")))


def take_over_spaces(folder: Path) -> dict[str, FeatureSpace]:
    """Read what `hand_over_spaces` wrote."""
    return read_spaces(folder / SPACES)
