"""The commands about likeness: which records are like the training data, and the background model that one of the scores needs."""

from dataclasses import replace
from pathlib import Path

import click

from . import output
from .commands import OUT, OVERWRITE, _arg, _data_fields, _load, _options_of, _records, _verb_fields, command
from .derive import Groups, given
from .records import ALL

__all__ = ["ALL"]


def _novelty_fields(run: str | None) -> Groups:
    own, (_, data) = _verb_fields("log_prob", data=True)(run)
    return [own, ("Data", [f for f in data if f.name != "data"])]


@command(
    "novelty",
    _arg("RUN"),
    _arg("FILE"),
    click.Option(["--method"], default="typicality", show_default=True, metavar="NAME", help="The score; see above."),
    click.Option(["--background"], metavar="RUN", help="The run of a background model, for likelihood_ratio."),
    click.Option(["--reference"], metavar="FILE", help="Held-out records that are like the training data  [the run's own]"),
    click.Option(["--batch"], type=int, default=1, show_default=True, help="Records of one origin that are scored together."),
    OUT,
    OVERWRITE,
    click.Option(["--seed"], type=int, default=0, show_default=True, help="Fixes the result bit for bit."),
    derive=_novelty_fields,
)
def novelty(
    ctx: click.Context,
    run: str,
    file: str,
    method: str,
    background: str | None,
    reference: str | None,
    batch: int,
    out: str | None,
    overwrite: bool,
    seed: int,
) -> None:
    """Are these records like the training data? Scores each record of FILE, and says what the score can and cannot tell.

    --method is one of: typicality, the distance of -log p(x) from what is usual; complexity, -log2 p(x) less the length of a PNG or zlib
    code; likelihood_ratio, log p of a background model less log p(x), see `pushforward background`; likelihood, -log p(x), which misleads
    when alone: plain records score as ordinary.

    Higher scores are less like the training data. Held-out records of the run's own data give each score its p-value: how often a record
    like the training data scores as high. --out FILE.csv has a row for each record, FILE.json everything.
    """
    from ..data import reload
    from ..errors import DataError
    from ..models import load
    from ..novelty import novelty as measure
    from ..store import Run

    model = load(run)
    records, condition, _ = _records(model, run, {**given(ctx, "Data"), "data": file})
    like, missing = None, ""
    if reference is not None:
        like = _load({**_options_of(run), **given(ctx, "Data"), "validation": 0, "test": 0, "data": reference}).train
    else:
        try:
            like = reload(Run.open(run).data)
        except DataError as error:
            if method == "typicality":
                raise DataError(f"{error} Or give --reference FILE, held-out records that are like them.") from error
            missing = f"No p-values: {error} Or give --reference FILE, held-out records that are like them."
    found = measure(
        model,
        records,
        method=method,  # pyright: ignore[reportArgumentType] (its error names the methods that there are)
        reference=like,
        background=None if background is None else load(background),
        batch=batch,
        condition=condition,
        seed=seed,
        **given(ctx, "Options"),
    )
    found.notes += [missing] if missing else []
    if out and Path(out).suffix.lower() == ".json":
        output.write_json(found.to_json(), out, overwrite)
    elif out:
        output.write_columns(found.columns(), out, overwrite)
    click.echo(f"{len(found.log_prob)} records of {file}, scored by {run}\n{found}")


def _background_fields(_run: str | None) -> Groups:
    from ..signatures import parameters
    from ..train import Training

    return [("Data", _data_fields(required=False)), ("Training", [replace(f, default=None) for f in parameters(Training)])]


@command(
    "background",
    _arg("RUN"),
    click.Option(["--out", "-o"], metavar="DIR", help="The run folder to make  [RUN-background]"),
    click.Option(["--rate"], type=float, default=0.2, show_default=True, help="Share of the entries of records that chance replaces."),
    derive=_background_fields,
)
def background(ctx: click.Context, run: str, out: str | None, rate: float) -> None:
    """Fit a run's model anew to perturbed records: the background model of `pushforward novelty --method likelihood_ratio`.

    Hyperparameters, training settings and data are those of RUN; a training flag changes that setting.
    """
    from ..data import reload
    from ..data.perturb import perturbed
    from ..models import from_config
    from ..store import Run
    from ..train import Training

    opened, said = Run.open(run), given(ctx, "Data")
    data = _load({**_options_of(run), **said}) if "data" in said else reload(opened.data)
    training = Training.from_json(opened.config["training"]).override(**given(ctx, "Training"))
    conditional = bool(opened.config["spec"]["condition_dim"])
    model, folder = from_config(opened.config), out or f"{run.rstrip('/')}-background"
    model.fit(perturbed(data, rate, seed=training.seed), condition=conditional or None, out=folder, **training.to_json())
    click.echo(f"{folder}\nNext: pushforward novelty {run} FILE --method likelihood_ratio --background {folder}")
