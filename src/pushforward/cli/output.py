"""How results reach the terminal and files."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError, DataError

# -- files -----------------------------------------------------------------------------------------------------------------


def write(records: Any, out: str | None, images: bool) -> None:
    """Write samples in the form that the name of `out` asks for, whole or not at all; without a name, to the terminal."""
    if out is None:
        if images:
            raise ConfigError("Images need --out: FILE.png (one picture of all), a folder (one file each), FILE.npy or FILE.npz.")
        frame = _frame(records)
        click.echo((frame.write_csv() if hasattr(frame, "write_csv") else frame.to_csv(index=False)).rstrip("\n"))
        return
    path = Path(out).expanduser()
    ending = path.suffix.lower()
    if ending in (".csv", ".parquet"):
        frame = _frame(records)
        if hasattr(frame, "write_csv"):
            _atomic(path, frame.write_csv if ending == ".csv" else frame.write_parquet)
        else:
            _atomic(path, lambda p: frame.to_csv(p, index=False) if ending == ".csv" else frame.to_parquet(p, index=False))
    elif ending in (".npy", ".npz"):
        import numpy as np

        array = _array(records)
        if array.dtype == object:
            raise ConfigError(f"{path.name} cannot hold columns of text. Write FILE.csv or FILE.parquet.")
        save = np.save if ending == ".npy" else (lambda file, a: np.savez_compressed(file, x=a))

        def to_file(draft: Path) -> None:
            with draft.open("wb") as file:
                save(file, array)

        _atomic(path, to_file)
    elif ending == ".png":
        if images:
            picture = _grid(_array(records))
            _atomic(path, lambda p: picture.save(p, format="PNG"))
        else:
            _atomic(path, lambda p: _scatter(_array(records), p))
    elif ending == "" and images:
        _folder(_array(records), path)
    else:
        forms = "FILE.png, a folder, FILE.npy or FILE.npz" if images else "FILE.csv, FILE.parquet, FILE.npy or FILE.npz"
        raise ConfigError(f"--out {out}: samples of this kind are written as {forms}.")
    click.echo(f"{len(records)} records -> {path}", err=True)


def write_values(values: Any, out: str, name: str) -> None:
    """One number per record, as CSV or .npy."""
    import numpy as np

    path = Path(out).expanduser()
    if path.suffix.lower() == ".npy":

        def to_file(draft: Path) -> None:
            with draft.open("wb") as file:
                np.save(file, values)

        _atomic(path, to_file)
    elif path.suffix.lower() == ".csv":
        _atomic(path, lambda p: p.write_text(name + "\n" + "".join(f"{v!r}\n" for v in values.tolist())))
    else:
        raise ConfigError(f"--out {out}: values are written as FILE.csv or FILE.npy.")
    click.echo(f"{len(values)} values -> {path}", err=True)


def write_json(value: Mapping[str, Any], out: str) -> None:
    """A JSON file, for people and programs."""
    _atomic(Path(out).expanduser(), lambda p: p.write_text(json.dumps(value, indent=2) + "\n"))


def _atomic(path: Path, save: Any) -> None:
    from ..store import atomic

    path.parent.mkdir(parents=True, exist_ok=True)
    atomic(path, save)


def _frame(records: Any) -> Any:
    """Records as a data frame: their own, or columns x0, x1 ..."""
    if hasattr(records, "columns"):
        return records
    import pandas as pd

    array = _array(records)
    array = array.reshape(len(array), -1)
    return pd.DataFrame(array, columns=[f"x{i}" for i in range(array.shape[1])])


def _array(records: Any) -> Any:
    import numpy as np

    return records.to_numpy() if hasattr(records, "to_numpy") else np.asarray(records)


# -- pictures --------------------------------------------------------------------------------------------------------------


def _pixels(images: Any) -> Any:
    """Images in any layout and range as uint8 (n, H, W) or (n, H, W, 3)."""
    import numpy as np

    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[-1] not in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.dtype != np.uint8 or (images.size and images.max() <= 1):
        low, high = float(images.min()), float(images.max())
        # Bits and grey levels begin at 0; other numbers are stretched over the whole range.
        low = min(low, 0.0)
        images = np.clip((images - low) / max(high - low, 1e-12) * 255, 0, 255).round().astype(np.uint8)
    return images


def _grid(images: Any) -> Any:
    """All images in one picture, as square as can be, a pixel apart."""
    import numpy as np
    from PIL import Image

    images = _pixels(images)
    n, height, width = images.shape[:3]
    columns = int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    canvas = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, *images.shape[3:]), 128, dtype=np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + 1), (i % columns) * (width + 1)
        canvas[y : y + height, x : x + width] = image
    zoom = max(1, 512 // max(canvas.shape[:2]))
    picture = Image.fromarray(canvas)
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def _folder(images: Any, path: Path) -> None:
    """One PNG file for each image, in a folder that must be new or empty."""
    import os
    import shutil

    from PIL import Image

    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path} exists and is not an empty folder. Choose another --out.")
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        draft.mkdir(parents=True)
        for i, image in enumerate(_pixels(images)):
            Image.fromarray(image).save(draft / f"{i:05d}.png")
        os.replace(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _scatter(array: Any, path: Path) -> None:
    """The first two columns as a scatter picture."""
    from matplotlib.figure import Figure

    if array.ndim != 2 or array.shape[1] < 2 or array.dtype == object:
        raise ConfigError("A picture needs images, or at least two columns of numbers. Write FILE.csv instead.")
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(array[:, 0], array[:, 1], s=4, alpha=0.6, linewidths=0)
    axes.set_aspect("equal", "datalim")
    figure.savefig(path, format="png", dpi=120)


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


def figures(result: Any) -> list[tuple[str, str]]:
    """(name, value ± error with unit and kind) of each figure that an evaluation holds."""

    def number(name: str, error: float | None = None) -> str:
        value = getattr(result, name)
        return f"{value:.4g}" if error is None else f"{value:.4f} ± {error:.4f}"

    rows = []
    if result.log_prob is not None:
        rows.append(("log p(x)", f"{number('log_prob', result.log_prob_se)} nats per record ({result.kind})"))
    if result.bits_per_dim is not None:
        rows.append(("bits/dim", f"{number('bits_per_dim', result.bits_per_dim_se)} ({result.kind})"))
    if result.kl is not None:
        rows.append(("KL(p || model)", f"{number('kl', result.kl_se)} nats ({result.kind})"))
    for name in ("precision", "recall", "density", "coverage", "frechet", "energy"):
        if getattr(result, name) is not None:
            real = result.real.get(name)
            rows.append((name, number(name) + (f"   (real records: {real:.4g})" if real is not None else "")))
    if result.modes is not None:
        rows.extend((f"modes: {k}", f"{v:.4g}" if isinstance(v, float) else str(v)) for k, v in result.modes.to_json().items())
    if result.samples_per_second is not None:
        rows.append(("samples per second", f"{result.samples_per_second:.4g}"))
    if result.nfe is not None:
        rows.append(("network evaluations", str(result.nfe)))
    rows.append(("parameters", f"{result.parameters:,}"))
    return rows


def show_evaluation(result: Any) -> None:
    """The figures of one model, and what they were measured on."""
    table = _table("figure", result.model)
    for name, value in figures(result):
        table.add_row(name, value)
    _print(table)
    click.echo(f"{result.held_out} held-out records, {result.samples} samples.")
    if result.estimator:
        click.echo(f"log p(x): {result.estimator.rstrip('.')}.")
    if result.features:
        click.echo(f"Samples are compared in {result.features}.")
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
