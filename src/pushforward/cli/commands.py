"""The commands. Each says what it does in its docstring, derives its flags, calls the library and prints the result."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from . import output
from .derive import Derived, Groups, given, with_defaults

ALL: list[click.Command] = []
"""Every command, in the order in which one needs them."""


def command(name: str, *params: click.Parameter, derive: Any = lambda first: ()) -> Any:
    """Register a function as a command; its docstring becomes the help."""

    def register(function: Any) -> Any:
        text = function.__doc__.split("\f")[0]
        ALL.append(Derived(name, params=list(params), callback=function, help=text, derive=derive))
        return function

    return register


def _arg(name: str, **kwargs: Any) -> click.Argument:
    return click.Argument([name.lower()], metavar=name, **kwargs)


OUT = click.Option(["--out", "-o"], metavar="PATH", help="Where to write; see above for the forms.")
OVERWRITE = click.Option(["--overwrite"], is_flag=True, help="Replace what is there under that name.")
SEED = click.Option(["--seed"], type=int, help="Fixes the result bit for bit.")


# -- what the flags follow from --------------------------------------------------------------------------------------------


def _data_fields(required: bool = True) -> list[Any]:
    """`load_data`'s parameters, its source under the name `data`."""
    from ..data import load_data
    from ..signatures import REQUIRED, parameters

    source, *rest = parameters(load_data)
    what = "An array, table or image folder on disk, or the name of a built-in set."
    return [replace(source, name="data", annotation=str, help=source.help or what, default=REQUIRED if required else None), *rest]


def _fit_fields(name: str | None) -> Groups:
    from ..models import catalog, create
    from ..signatures import parameters
    from ..train import Training

    training = parameters(Training)
    if name is None:
        return [("Data", _data_fields()), ("Training", training)]
    model = type(create(name))
    return [("Model", parameters(catalog()[name])), ("Data", _data_fields()), ("Training", with_defaults(training, model.training))]


def _verb_fields(verb: str, data: bool) -> Any:
    """The options that the model of a run folder takes for a verb."""

    def fields(run: str | None) -> Groups:
        from ..models import catalog
        from ..signatures import options
        from ..store import Run

        own: Any = []
        if run is not None:
            hook = getattr(catalog().get(Run.open(run).config["model"]), f"_{verb}", None)
            own = [] if hook is None else options(hook)
        return [("Options", own), *([("Data", _data_fields(required=False))] if data else [])]

    return fields


def _load(said: dict[str, Any], default: Any = None) -> Any:
    """The data set that the data flags describe."""
    from ..data import load_data

    source = said.pop("data", None)
    return default if source is None else load_data(source, **said)


# -- train -----------------------------------------------------------------------------------------------------------------


@command(
    "fit",
    _arg("MODEL"),
    click.Option(["--out", "-o"], metavar="DIR", help="The run folder to make  [runs/MODEL-1, -2 ...]"),
    click.Option(["--condition"], is_flag=True, help="Model p(x | label) with the data's labels (see --label)."),
    click.Option(["--tensorboard"], is_flag=True, help="Write TensorBoard event files into the run folder (needs the tensorboard extra)."),
    derive=_fit_fields,
)
def fit(ctx: click.Context, model: str, out: str | None, condition: bool, tensorboard: bool) -> None:
    """Train one model on your data, into a run folder.

    `pushforward models` lists the models; `pushforward fit MODEL --help` shows the hyperparameters of one.
    Ctrl-C saves; `pushforward resume` then goes on bit for bit.
    """
    from ..models import create

    network, data = create(model, **given(ctx, "Model")), _load(given(ctx, "Data"))
    folder = Path(out) if out else _free(Path("runs"), model)
    observers = []
    if tensorboard:
        from ..observers import TensorBoard

        observers.append(TensorBoard(folder / "tensorboard"))
    network.fit(data, condition=condition or None, out=folder, observers=observers, **given(ctx, "Training"))
    click.echo(f"{folder}\nNext: pushforward sample {folder} -n 64 --out FILE, or pushforward evaluate {folder}")


def _free(parent: Path, name: str) -> Path:
    """The first of NAME-1, NAME-2 ... that does not exist."""
    n = 1
    while (parent / f"{name}-{n}").exists():
        n += 1
    return parent / f"{name}-{n}"


def _resume_fields(_run: str | None) -> Groups:
    from ..signatures import parameters
    from ..train import Training

    return [("Data", _data_fields(required=False)), ("Training", [replace(f, default=None) for f in parameters(Training)])]


@command("resume", _arg("RUN"), derive=_resume_fields)
def resume(ctx: click.Context, run: str) -> None:
    """Go on with an interrupted run, bit for bit.

    The data are read again from where the run had them; --data gives them anew. A training flag changes that setting: a larger
    --steps, --epochs or --minutes is the new total.
    """
    from ..models import resume as go_on

    go_on(run, _load(given(ctx, "Data")), **given(ctx, "Training"))
    click.echo(run)


# -- use -------------------------------------------------------------------------------------------------------------------


@command(
    "sample",
    _arg("RUN"),
    click.Option(["-n"], type=click.IntRange(min=1), default=64, show_default=True, help="How many records."),
    OUT,
    OVERWRITE,
    click.Option(["--condition"], metavar="LABEL", help="The label of all records, or labels for each, separated by commas."),
    SEED,
    derive=_verb_fields("sample", data=False),
)
def sample(ctx: click.Context, run: str, n: int, out: str | None, overwrite: bool, condition: str | None, seed: int | None) -> None:
    """Draw new records from a fitted model, in the form of its data.

    --out takes FILE.csv or FILE.parquet (tables and points), FILE.npy or FILE.npz, FILE.png (one picture of all) or a folder (one PNG
    file for each image). Without it, tables and points go to the terminal as CSV.
    """
    from ..models import load

    model = load(run)
    records = model.sample(n, condition=_labels(model, condition), seed=seed, **given(ctx, "Options"))
    output.write(model, records, out, overwrite)


def _labels(model: Any, text: str | None) -> Any:
    """Labels as text are understood by the schema; a vector is given as numbers."""
    if text is None:
        return None
    known = None if model.schema is None else model.schema.condition
    if known is not None and known.kind == "vector":
        return [float(v) for v in text.split(",")]
    if known is not None and text in map(str, known.classes):
        return text
    return text.split(",") if "," in text else text


@command("log-prob", _arg("RUN"), OUT, OVERWRITE, SEED, derive=_verb_fields("log_prob", data=True))
def log_prob(ctx: click.Context, run: str, out: str | None, overwrite: bool, seed: int | None) -> None:
    """Mean log-likelihood of records, in nats and in the data's own units, with its standard error and its kind.

    --data FILE scores every record of the file; without it, the held-out records of the run's own data. --out FILE.csv (or .npy)
    writes one number for each record, in the order of the source.
    """
    from ..metrics import standard_error
    from ..models import load

    model = load(run)
    records, condition, what = _records(model, run, given(ctx, "Data"))
    values = model.log_prob(records, condition=condition, seed=seed, **given(ctx, "Options")).double()
    if out:
        output.write_values(values.numpy(), out, "log_prob", overwrite)
    error = f" ± {standard_error(values):.4f}" if len(values) > 1 else ""
    click.echo(f"log p(x) = {values.mean():.4f}{error} nats per record ({model.density}), {len(values)} {what}")
    if model.spec is not None and model.spec.discrete and model.spec.kind != "sequence":
        from ..metrics import bits_per_dim

        click.echo(f"         = {float(bits_per_dim(values, model.spec.dim).mean()):.4f} bits/dim")


def _records(model: Any, run: str, said: dict[str, Any]) -> tuple[Any, Any, str]:
    """(records in the user's form, their conditions or None, what they are) for the data flags, or for the run's own data."""
    from ..data import load_data, reload
    from ..store import Run

    conditional = bool(model.spec.condition_dim)
    if "data" not in said:
        data = reload(Run.open(run).data)
        part, what = (data.test, "held-out records") if len(data.test) else (data.validation, "validation records")
    else:
        options = {**_options_of(run), "validation": 0, "test": 0, **said}
        data = load_data(options.pop("data"), **options)
        part, what = data.train, "records"
        if data.order is not None:
            part = part.subset(data.order[: len(part)].argsort())
    # In the user's own form, because this run's scaling is not that of a data set read anew.
    return part.records(), part.labels() if conditional else None, what


def _options_of(run: str) -> dict[str, Any]:
    """How the run read its data (label, columns, support ...): new records are read in the same way unless told otherwise."""
    from ..store import Run

    options = dict((Run.open(run).data.get("source") or {}).get("options") or {})
    return {name: value for name, value in options.items() if name != "data_b"}  # the run's second collection is not that of new records


@command("evaluate", _arg("RUN"), OUT, OVERWRITE, derive=lambda run: _evaluate_fields())
def evaluate(ctx: click.Context, run: str, out: str | None, overwrite: bool) -> None:
    """Every figure that applies to a fitted model, on held-out records.

    --data is the data set whose test split to use; without it, the run's own. --out FILE.json writes the figures.
    """
    from ..data import reload
    from ..evaluate import evaluate as measure
    from ..models import load
    from ..store import Run

    said = given(ctx, "Data")
    data = _load({**_options_of(run), **said}) if "data" in said else reload(Run.open(run).data)
    result = measure(load(run), data, **given(ctx, "Evaluation"))
    output.show_evaluation(result)
    if out:
        output.write_json(result.to_json(), out, overwrite)


def _evaluate_fields() -> Groups:
    from ..evaluate import evaluate as measure
    from ..signatures import parameters

    return [("Data", _data_fields(required=False)), ("Evaluation", parameters(measure)[2:])]


# -- compare ---------------------------------------------------------------------------------------------------------------


def _compare_fields(_first: str | None) -> Groups:
    from ..compare import compare as run_all
    from ..signatures import parameters
    from ..train import Training

    own = [f for f in parameters(run_all) if f.name != "data"]
    further = [replace(f, default=None) for f in parameters(Training) if f.name not in {"seed", *(f.name for f in own)}]
    return [
        ("Data", _data_fields(required=False)),
        ("Training", further),
        ("Comparison", [replace(f, default=None) if f.required else f for f in own]),
    ]


@command("compare", derive=_compare_fields)
def compare(ctx: click.Context) -> None:
    """Train several models on the same data for the same budget, and say what each is worth.

    Prints a leaderboard and writes report.html, which opens offline. --models takes names, with hyperparameters if you wish:
    --models vae gan:loss=wasserstein realnvp:layers=4. Ctrl-C stops it; --resume --out DIR goes on where it stopped.
    """
    from ..compare import compare as run_all

    own, data = given(ctx, "Comparison"), _load(given(ctx, "Data"))
    if data is None and not own.get("resume"):
        raise click.UsageError("Missing option '--data'.", ctx)
    result = run_all(**{"models": None, **own}, data=data, **given(ctx, "Training"))
    click.echo(f"{result}\n{result.path / 'report.html'}")


@command("report", _arg("FOLDER"))
def report(ctx: click.Context, folder: str) -> None:
    """Write a comparison's page again from what its folder holds, without training anything."""
    from ..report import rewrite

    click.echo(rewrite(folder))


# -- look ------------------------------------------------------------------------------------------------------------------


@command("models", _arg("MODEL", required=False))
def models(ctx: click.Context, model: str | None) -> None:
    """List the models, or show one model's hyperparameters."""
    from ..models import catalog, create

    if model is None:
        output.show_catalog(catalog())
    else:
        output.show_model(type(create(model)))


@command("data", _arg("SOURCE"), derive=lambda source: [("Data", _data_fields()[1:])])
def data(ctx: click.Context, source: str) -> None:
    """Read a data set and say what it is: kind, shape, support, columns, splits."""
    from ..data import load_data

    click.echo(load_data(source, **given(ctx, "Data")).summary())


@command("verify", click.Argument(["only"], metavar="[MODULE]...", nargs=-1))
def verify(ctx: click.Context, only: tuple[str, ...]) -> None:
    """Check our code against answers known in closed form or by enumeration."""
    from ..verify import verify as known_answers

    if not output.show_known(known_answers(only)):
        ctx.exit(1)


@command("evidence", _arg("RUN"), OUT, OVERWRITE, derive=lambda run: _evidence_fields())
def evidence(ctx: click.Context, run: str, out: str | None, overwrite: bool) -> None:
    """Bound log p(x) by annealed importance sampling, for models with a decoder: VAEs, other priors over their codes, GANs.

    --data is the data set whose test split to score; without it, the run's own. Prints the lower bound, and how far it lies below an
    upper bound on records drawn from the model. --out FILE.json writes the figures and every record's bound.
    """
    from ..data import reload
    from ..evidence import evidence as measure
    from ..models import load
    from ..store import Run

    said = given(ctx, "Data")
    data = _load({**_options_of(run), **said}) if "data" in said else reload(Run.open(run).data)
    result = measure(load(run), data, **given(ctx, "Evidence"))
    output.show_evidence(result)
    if out:
        output.write_json(result.to_json(), out, overwrite)


def _evidence_fields() -> Groups:
    from ..evidence import evidence as measure
    from ..signatures import parameters

    return [("Data", _data_fields(required=False)), ("Evidence", parameters(measure)[2:])]


@command(
    "explore",
    _arg("RUN"),
    click.Option(["--out", "-o"], metavar="FOLDER", help="Where explore.html and explore.json go  [RUN/explore]"),
    derive=lambda run: _explore_fields(),
)
def explore(ctx: click.Context, run: str, out: str | None) -> None:
    """Look inside a fitted model: what its codes mean, how they lie, and what its decoder does with them.

    Writes one page that opens offline, explore.html: walks between records, the square of codes, traversals, attributes added and removed,
    codes by class, gaps, slopes, nearest training records. What does not apply to the model is named with its reason. The figures go to
    explore.json beside it. --data is the data set to look at; without it, the run's own.
    """
    from ..data import reload
    from ..explore import explore as look
    from ..models import load
    from ..store import Run

    said = given(ctx, "Data")
    data = _load({**_options_of(run), **said}) if "data" in said else reload(Run.open(run).data)
    click.echo(look(load(run), data, **given(ctx, "Exploration")).save(Path(out) if out else Path(run) / "explore"))


def _explore_fields() -> Groups:
    from ..explore import explore as look
    from ..signatures import parameters

    return [("Data", _data_fields(required=False)), ("Exploration", parameters(look)[2:])]
