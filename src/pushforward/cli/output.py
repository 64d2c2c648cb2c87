"""How results reach the terminal and files."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError, RunError

# -- files -----------------------------------------------------------------------------------------------------------------


def write(model: Any, records: Any, out: str | None, overwrite: bool) -> None:
    """Write samples in the form that the name of `out` asks for, whole or not at all; without a name, to the terminal."""
    if out is None:
        if model.spec.kind == "image":
            raise ConfigError("Images need --out: FILE.png (one picture of all), a folder (one file each), FILE.npy or FILE.npz.")
        click.echo(_text(records) if model.spec.kind == "sequence" else _csv(records))
        return
    path = Path(out).expanduser()
    if path.suffix.lower() == ".png":
        from ..plots import draw_samples
        from ..store import atomic

        _vacant(path, overwrite)
        picture = model.schema.encode(records)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic(path, lambda draft: draw_samples(picture, model.schema, model.spec, draft))
    else:
        from ..data.writers import write_records

        write_records(records, path, overwrite=overwrite)
    click.echo(f"{len(records)} records -> {path}", err=True)


def _text(records: Any) -> str:
    """Texts with a line between two, or pieces of music as lines of JSON."""
    return "\n----\n".join(records) if isinstance(records[0], str) else "\n".join(json.dumps(r) for r in records)


def _vacant(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise RunError(f"{path} is there already. Give another name, or --overwrite.")


def _csv(records: Any) -> str:
    """Records as CSV text: a data frame's own columns, or x0, x1 ..."""
    if hasattr(records, "write_csv"):
        return records.write_csv().rstrip("\n")
    if not hasattr(records, "to_csv"):
        import numpy as np
        import pandas as pd

        array = np.asarray(records)
        records = pd.DataFrame(array, columns=[f"x{i}" for i in range(array.shape[1])])
    return records.to_csv(index=False).rstrip("\n")


def write_values(values: Any, out: str, name: str, overwrite: bool) -> None:
    """One number per record, as CSV or .npy."""
    from ..data.writers import write_records

    if Path(out).suffix.lower() == ".csv":
        import pandas as pd

        values = pd.DataFrame({name: values})
    write_records(values, out, overwrite=overwrite)
    click.echo(f"{len(values)} values -> {out}", err=True)


def write_columns(columns: Mapping[str, Any], out: str, overwrite: bool) -> None:
    """A table with a row for each record, as CSV or Parquet."""
    import pandas as pd

    from ..data.writers import write_records

    table = pd.DataFrame(dict(columns))
    write_records(table, out, overwrite=overwrite)
    click.echo(f"{len(table)} rows -> {out}", err=True)


def write_json(value: Mapping[str, Any], out: str, overwrite: bool) -> None:
    """A JSON file, for people and programs."""
    from ..store import atomic

    path = Path(out).expanduser()
    _vacant(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic(path, lambda draft: draft.write_text(json.dumps(value, indent=2) + "\n") and None)


# -- tables ----------------------------------------------------------------------------------------------------------------


def _table(*columns: str, **kwargs: Any) -> Any:
    from rich import box
    from rich.table import Table

    return Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, **kwargs)


def _print(table: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:  # in a pipe or a file nothing needs wrapping
        console = Console(highlight=False, width=200)
    console.print(table)


def show_catalog(catalog: Mapping[str, Any]) -> None:
    """Name, family, kind of likelihood and summary of every model."""
    from ..signatures import summary

    table = _table("name", "family", "log_prob", "what it is")
    for name, model in catalog.items():
        package = model.__module__.split(".")
        # Families whose kind the data decide (levels turn an exact density into a bound) say nothing before they are built.
        kind = "by data" if model.density == "none" and model.supports("log_prob") else model.density
        table.add_row(name, package[-2] if len(package) > 1 else package[0], kind, summary(model))
    _print(table)
    click.echo("pushforward models NAME shows hyperparameters; pushforward fit NAME --data SOURCE trains.")


def show_model(model: Any) -> None:
    """What a model is, what it cannot do, and its hyperparameters."""
    from ..signatures import parameters, summary, written

    click.echo(f"{model.name}: {summary(model)}\nlog_prob: {model.density}")
    for verb, reason in model.unsupported.items():
        click.echo(f"no {verb}: {reason}")
    table = _table("hyperparameter", "type", "default", "meaning")
    for f in parameters(model):
        table.add_row(f.name, f.placeholder if f.textual else "network (Python only)", written(f.default), f.help)
    _print(table)


def figures(result: Any) -> list[tuple[str, ...]]:
    """(group, name, value with its unit, 95 % interval, the same of real records) of each figure that an evaluation holds, by group."""
    from ..figures import FIGURES

    rows = []
    for name, about in FIGURES.items():
        found, real = result.figures.get(name), result.real.get(name)
        if found is None:
            continue
        kind = f" ({result.kind})" if about.group == "likelihood" else ""
        of = f" of {result.modes}" if name in ("modes_captured", "classes_captured") and result.modes else ""
        unit = "" if about.unit.startswith(("squared", "feature", "1/s", "standard")) else about.unit
        between = f"{_short(found.low)} to {_short(found.high)}" if found.known else ""
        cells = (f"{_short(found.value)}{of} {unit}{kind}".replace("  ", " ").strip(), between, _short(real.value) if real else "")
        rows.append((about.group, about.label, *cells))
    return rows


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def show_evaluation(result: Any) -> None:
    """The figures of one model, and what they were measured on."""
    table, last = _table("", "figure", result.model, "95 % interval", "real records"), ""
    for group, *cells in figures(result):
        table.add_row("" if group == last else group, *cells)
        last = group
    _print(table)
    click.echo(f"{result.held_out} held-out records, {result.samples} samples.")
    if result.estimator:
        measure = {"mass": " A probability of discrete values.", "density": " A density in the data's own units."}
        given = " Given each record's own label." if result.conditional else ""
        click.echo(f"log p(x): {result.estimator.rstrip('.')}.{measure.get(result.base_measure, '')}{given}")
    if result.features:
        click.echo(f"Samples are compared in {result.features}. Real records: {result.yardstick}.")
    for space, found in result.spaces.items():
        parts = (f"{FIGURES_SHOWN[k]} {_short(v.value)}" for k, v in found.items() if k in FIGURES_SHOWN)
        click.echo(f"In {space}: {', '.join(parts)}.")
    if result.copying:
        click.echo(f"Copying: {result.copying}")
    for alarm in result.alarms:
        click.echo(f"Training warned at step {alarm['step']}: {alarm['says']} {alarm['remedy']}")
    for note in result.notes:
        click.echo(f"Note: {note}")


FIGURES_SHOWN = {"density": "density", "coverage": "coverage", "frechet": "Fréchet", "kernel": "kernel distance", "copying": "C_T"}
"""What is said of the further feature spaces."""


def show_evidence(result: Any) -> None:
    """The bound with its interval, how it was had, and the gap."""

    def shown(estimate: Any) -> str:
        return f"{estimate.value:.4f}" + (f"  [{estimate.low:.4f}, {estimate.high:.4f}]" if estimate.known else "")

    table = _table("figure", f"{result.model}, value [95 % interval]")
    given = "log p(x | condition)" if result.conditional else "log p(x)"
    table.add_row(f"{given} >=", rf"{shown(result.log_prob)} nats per record".replace("[", r"\["))
    for name, label in (("bits_per_dim", "bits/dim <="), ("lower", "simulated: lower"), ("upper", "simulated: upper"), ("gap", "gap")):
        if getattr(result, name) is not None:
            table.add_row(label, shown(getattr(result, name)).replace("[", r"\["))
    table.add_row("effective chains", f"{result.ess:.1f}")
    _print(table)
    click.echo(f"{result.held_out} held-out records, {result.simulated} simulated ones; {result.seconds:.0f} s.")
    click.echo(f"Base measure: {result.base_measure}.")
    click.echo(f"Estimator: {result.estimator}.")
    for note in result.notes:
        click.echo(f"Note: {note}")


def show_known(answers: Iterable[tuple[str, Any]]) -> bool:
    """The table of known answers; whether all hold."""
    import time

    started, table, every, failed = (
        time.perf_counter(),
        _table("module", "what", "known", "ours", "difference", "tolerance", "holds"),
        0,
        [],
    )
    for module, answer in answers:
        every += 1
        holds = "yes" if answer.holds else "[red]NO[/red]"
        numbers = (f"{answer.known:.6g}", f"{answer.ours:.6g}", f"{answer.difference:.1e}", f"{answer.tolerance:.1e}")
        table.add_row(module, answer.name, *numbers, holds)
        if not answer.holds:
            failed.append(
                f"{module}: {answer.name} differs by {answer.difference:.3g}, more than {answer.tolerance:.3g} ({answer.because})"
            )
    _print(table)
    for line in failed:
        click.echo(line, err=True)
    click.echo(f"{every - len(failed)} of {every} known answers hold ({time.perf_counter() - started:.0f} s).")
    return not failed
