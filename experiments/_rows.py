"""Several small experiments in one script, each its rows of one results file and its picture.

    run("autoencoders", __doc__, {"depth": depth, "swiss roll": swiss_roll})

gives a command line with `--only` (the others' figures stay as the file has them), `--size` (a factor on training steps; 1 is the reduced
form) and `--out` for pictures. The seconds and the commit of each are kept under its name in the settings.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _result import ROOT, Result, commit

import pushforward as pf


@dataclass
class Row:
    """What one experiment is given, and where its figures go."""

    name: str
    result: Result
    size: float
    seed: int
    data: str
    out: Path
    settings: dict[str, Any] = field(default_factory=dict)

    def add(self, what: str, value: float | int, **about: Any) -> None:
        self.result.add(f"{self.name}: {what}", value, **about)

    def steps(self, n: int) -> int:
        return max(1, round(n * self.size))

    def images(self, records: int, held: int = 1000, **options: Any) -> pf.Data:
        """The first records of an image set: `records` to train on, a tenth as many to validate, `held` to judge."""
        full = pf.load_data(self.data, **options)
        n = round(records * max(1.0, self.size))
        self.settings |= {"data": self.data, "training records": min(n, len(full.train)), **options}
        parts = full.train[:n], full.validation[: max(100, n // 10)], full.test[:held]
        return pf.Data(full.schema, *parts)

    def save(self, figure: Any) -> None:
        path = self.out / f"{self.name.replace(' ', '-')}.png"
        figure.savefig(path, dpi=120)
        print(path)


def run(experiment: str, doc: str | None, rows: Mapping[str, Callable[[Row], None]], data: str = "mnist") -> None:
    """Parse the command line and run the rows that it names."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(rows), default=list(rows), metavar="NAME", help=", ".join(rows))
    parser.add_argument("--size", type=float, default=1.0, help="factor on training steps and, above 1, on records; 1 is the reduced form")
    parser.add_argument("--data", default=data, help="mnist (see the docs on data) or digits, which needs no file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs") / experiment.replace("_", "-"), help="folder for the pictures")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"size": f"{given.size:g} (1 is the reduced form, minutes in all)", "threads": given.threads}
    before = given.results / f"{experiment}.json"
    kept, was = [], {}
    if before.exists() and set(given.only) != set(rows):
        was = json.loads(before.read_text(encoding="utf-8"))
        kept = [f for f in was["figures"] if f["name"].partition(": ")[0] in set(rows) - set(given.only)]
    with Result(experiment, settings=settings, seeds=[given.seed], folder=given.results) as result:
        for name, work in rows.items():
            if name not in given.only:
                result.figures += [f for f in kept if f["name"].partition(": ")[0] == name]
                result.settings |= {k: v for k, v in was.get("settings", {}).items() if k == name}
                continue
            start = time.perf_counter()
            row = Row(name, result, given.size, given.seed, given.data, given.out)
            work(row)
            seconds = round(time.perf_counter() - start, 1)
            result.settings[name] = {"size": given.size, **row.settings, "seconds": seconds, "commit": commit()}
            print(f"{name}: {seconds:.0f} s", flush=True)


# -- pictures -----------------------------------------------------------------------------------------------------------


def strips(rows: Mapping[str, Any], each: int | None = None) -> Any:
    """A figure with a row of images (n, 1, H, W) in [0, 1] under each title."""
    from matplotlib.figure import Figure

    first = next(iter(rows.values()))
    wide = (each or len(first)) * 0.8
    figure = Figure(figsize=(wide, 1.05 * len(rows) * max(1.0, 0.8)), layout="constrained")
    for axis, (title, x) in zip(np.atleast_1d(figure.subplots(len(rows), 1)), rows.items()):
        v = torch.as_tensor(x)[: each or len(first)].double()
        v = v.reshape(len(v), *v.shape[-2:])
        v = torch.nn.functional.pad(v, (1, 1, 1, 1), value=0.25)
        axis.imshow(v.permute(1, 0, 2).reshape(v.shape[1], -1), cmap="gray_r", vmin=0, vmax=1)
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_axis_off()
    return figure


def sheet(axis: Any, x: Any, columns: int, title: str = "") -> None:
    """Draw images (n, 1, H, W) in [0, 1] as a square on an axis."""
    v = torch.as_tensor(x).double()
    v = v[: len(v) // columns * columns].reshape(-1, columns, *v.shape[-2:])
    axis.imshow(v.permute(0, 2, 1, 3).reshape(v.shape[0] * v.shape[2], -1), cmap="gray_r", vmin=0, vmax=1)
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_axis_off()


def unit(x: torch.Tensor, data: pf.Data) -> torch.Tensor:
    """Image values as numbers in [0, 1]."""
    support = data.spec.support
    return x.double() / ((support.size or 2) - 1 if support is not None and support.name != "real" else 1)


def sizes(widths: Sequence[int]) -> str:
    return "-".join(map(str, widths))
