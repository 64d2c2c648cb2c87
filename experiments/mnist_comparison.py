"""Six families on MNIST, five minutes each, three seeds: the trilemma measured.

    PUSHFORWARD_DATA=... python experiments/mnist_comparison.py [FOLDER]

FOLDER is where the comparison is, or goes: one that was stopped is gone on with, one that is finished is read. It takes an hour on two
cores.
"""

import sys
from pathlib import Path

from _result import Result

import pushforward as pf
from pushforward.compare import Comparison
from pushforward.figures import FIGURES
from pushforward.report import differences
from pushforward.report.leaderboard import entries

SHOWN = (
    "log_prob",
    "bits_per_dim",
    "density",
    "precision",
    "coverage",
    "recall",
    "frechet",
    "c2st",
    "class_kl",
    "copied_share",
    "samples_per_second",
    "nfe",
)
"""The figures that are quoted."""


def run(folder: Path) -> None:
    if (folder / "comparison.json").exists():
        found = Comparison.load(folder)
    else:
        found = pf.compare(None, "mnist", minutes=5, seeds=3, out=folder, resume=(folder / "comparison-plan.json").exists())
    done = [e for e in entries(found) if e.error is None]
    features = next(v.features for e in done for v in e.done if v.features)
    settings = {"data": "mnist", "minutes": 5, "records": done[0].done[0].held_out, "features": features}
    with Result("mnist_comparison", settings=settings, seeds=list(found.seeds)) as result:
        result.add("models that finished, of six, with three seeds each", sum(e.seeds == 3 for e in done), kind="count", target=">= 6")
        if found.seconds:
            result.add("wall time of the whole comparison", found.seconds, unit="s", kind="measured")
        for e in done:
            for name in SHOWN:
                figure = e.figure(name)
                if figure is not None:
                    kind = e.kind if name in ("log_prob", "bits_per_dim") else "measured"
                    interval = f" (95 % interval {figure.low:.4g} to {figure.high:.4g})" if figure.known else ""
                    text = f"{e.label}: {FIGURES[name].label}{interval}"
                    result.add(text, figure.value, unit=FIGURES[name].unit, kind=kind)
        for name in differences.FIGURES_TESTED:
            tested = differences.verdicts(done, name)
            pairs = [v for v in tested.values() if v.a < v.b]
            larger = sum(v.state in ("better", "worse") for v in pairs)
            result.add(f"pairs of models whose {differences.NAMES[name]} differs by more than luck, of {len(pairs)}", larger, kind="count")


if __name__ == "__main__":
    run(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/mnist-comparison"))
