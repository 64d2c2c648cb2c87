"""The commands that lead records of a file to other records: to another collection, or to themselves without gaps."""

from pathlib import Path
from typing import Any

import click

from . import output
from .commands import ALL, OUT, OVERWRITE, SEED, _arg, _fit_fields, _labels, _options_of, _verb_fields, command
from .derive import Groups, given

__all__ = ["ALL"]


@command(
    "translate",
    _arg("RUN"),
    click.Option(
        ["--data"], metavar="TEXT", help="Records of the other collection: a file, a folder of images  [held-out records of the run]"
    ),
    click.Option(["--to"], metavar="LABEL", required=True, help="The collection to lead them to, such as b."),
    OUT,
    OVERWRITE,
)
def translate(ctx: click.Context, run: str, data: str | None, to: str, out: str | None, overwrite: bool) -> None:
    """Lead records of one collection to the other, with a model that was fitted to two (cyclegan).

    Of `pushforward fit cyclegan --data A --data-b B`, the collections are called a and b. The translations are in the order and the
    form of the records. --out takes what it takes for `sample`.
    """
    from ..data import reload
    from ..errors import Unsupported
    from ..models import load
    from ..store import Run

    model: Any = load(run)
    if not hasattr(model, "translate"):
        raise Unsupported(f"{type(model).__name__} does not translate. Fit a cyclegan: pushforward fit cyclegan --data A --data-b B.")
    if data is None:
        own = reload(Run.open(run).data)
        records: Any = own.test if len(own.test) else own.validation
    else:
        options = _options_of(run)
        records, _ = _read(data, options)
        if hasattr(records, "columns"):  # those that the run left out are left out here
            left = [c for c in records.columns if c in options.get("drop", ()) or c not in options.get("columns", records.columns)]
            records = records.drop(columns=left)
    output.write(model, model.translate(records, to=to), out, overwrite)


@command(
    "complete",
    _arg("RUN"),
    _arg("FILE"),
    click.Option(
        ["--known"],
        metavar="NAMES|MASK",
        help="Columns that are known, or a mask: .npy, or a picture, black where unknown  [what has a value]",
    ),
    OUT,
    OVERWRITE,
    click.Option(["--condition"], metavar="LABEL", help="The label of all records, or labels for each, separated by commas."),
    SEED,
    derive=_verb_fields("complete", data=False),
)
def complete(
    ctx: click.Context, run: str, file: str, known: str | None, out: str | None, overwrite: bool, condition: str | None, seed: int | None
) -> None:
    """Fill in what is missing in the records of FILE: draws from p(unknown | known) under a fitted model.

    In a table what is missing is an empty cell or an absent column, or what --known does not name; in arrays NaN; in images what the mask
    leaves out; in a text that is read by lines, what comes after its lines end. Another --seed fills in anew: a few of them show what the
    model is sure of. --out takes what it takes for `sample`.
    """
    from ..models import load

    model: Any = load(run)
    options = _options_of(run)
    records, labels = _read(file, options, lines=bool(options.get("lines")), label=options.get("label") if condition is None else None)
    if isinstance(records, str):
        records = [records]
    wanted = _labels(model, condition) if condition is not None or not model.spec.condition_dim else labels
    filled = model.complete(records, _known(known), condition=wanted, seed=seed, **given(ctx, "Options"))
    output.write(model, filled, out, overwrite)


def _impute_fields(model: str | None) -> Groups:
    return [(name, [f for f in fields if f.name not in ("data", "seed", "missing")]) for name, fields in _fit_fields(model)]


@command(
    "impute",
    _arg("MODEL"),
    _arg("FILE"),
    click.Option(["--rounds"], type=click.IntRange(min=1), default=3, show_default=True, help="Fits, each followed by a draw."),
    OUT,
    OVERWRITE,
    click.Option(["--run"], metavar="DIR", help="A run folder for the model of the last round, for `pushforward complete` and the rest."),
    click.Option(["--seed"], type=int, default=0, show_default=True, help="Fixes the result bit for bit."),
    derive=_impute_fields,
)
def impute(ctx: click.Context, model: str, file: str, rounds: int, out: str | None, overwrite: bool, run: str | None, seed: int) -> None:
    """Fit a model to a table with gaps, and fill them: what is missing is drawn given what is there, in turns with the fit.

    Right where values are missing at random: where whether one is missing hangs on the rest of its row, not on the value itself. MODEL is
    one that completes records: gmm, maf_spline or another flow, or made with --order random --agnostic.
    """
    from ..incomplete import impute as run_all
    from ..models import create

    network = create(model, **given(ctx, "Model"))
    found = run_all(network, file, rounds=rounds, seed=seed, data=given(ctx, "Data"), **given(ctx, "Training"))
    if run is not None:
        found.model.save(run)
    output.write(found.model, found.records, out, overwrite)
    moved = ", ".join(f"{c:.3f}" for c in found.change)
    click.echo(f"{found.missing:.1%} of entries were missing. Means of what was drawn moved by {moved} sd, round by round.", err=True)


def _read(file: str, options: dict[str, Any], **more: Any) -> tuple[Any, Any]:
    """Records and their labels, read as the run's own data were."""
    from ..data import read_records

    own = {k: options[k] for k in ("key", "size", "skip_bad") if k in options}
    return read_records(file, **own, **{k: v for k, v in more.items() if v})


def _known(text: str | None) -> Any:
    """Names of columns, or the mask in a file."""
    if text is None:
        return None
    path = Path(text).expanduser()
    if path.suffix.lower() not in (".npy", ".png"):
        return text.split(",")
    import numpy as np
    from PIL import Image

    from ..errors import DataError

    try:
        if path.suffix.lower() == ".npy":
            return np.load(path, allow_pickle=False)
        with Image.open(path) as picture:
            return np.asarray(picture.convert("L")) > 0
    except (OSError, ValueError) as error:
        raise DataError(f"--known {path} cannot be read as a mask: {error}. Give a .npy file of booleans or a PNG picture.") from error
