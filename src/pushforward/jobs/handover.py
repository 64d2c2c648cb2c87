"""The records, handed to the jobs as one safetensors file."""

from pathlib import Path

from .. import store
from ..data import Data, Records, Schema, reload

SPLITS = ("train", "validation", "test")
FILE = "data.safetensors"


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
