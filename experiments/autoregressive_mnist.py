"""MNIST, statically binarised (Larochelle & Murray 2011): the exact test likelihood of an autoregressive family, trained for some minutes.

Published, in nats: MADE 88.04, and 86.64 with two layers of 8000 and 32 masks (Germain et al. 2015), NADE 88.86, PixelCNN 81.30,
PixelRNN with diagonal BiLSTMs 79.20 (van den Oord et al. 2016). The weights that are scored are those with the best likelihood on the
validation split. Needs the binarised MNIST (see the docs on data), under PUSHFORWARD_DATA or downloaded.

    python experiments/autoregressive_mnist.py made --minutes 30 --threads 1
    python experiments/autoregressive_mnist.py pixelcnn --minutes 90
    python experiments/autoregressive_mnist.py pixelrnn --minutes 90 --config kind='"row"' layers=7 --fit batch_size=32
    python experiments/autoregressive_mnist.py pixelcnn --minutes 60 --config layers=12 channels=128 --fit batch_size=128   (with a GPU)
    python experiments/autoregressive_mnist.py nade --minutes 0.5 --records 200
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from _result import ROOT, Result

import pushforward as pf
from pushforward.metrics import standard_error
from pushforward.models import create

# MADE: a step moves every weight through memory some fifteen times, so large batches cost little more than small ones. A layer of 3000 is
# best after some 2,300 steps, in any order, and then overfits: 30 minutes of one core are enough for nine. Members with weights of their
# own gain by their mean, the more where orders differ, and those that share their weights are worse by more than two nats each. PixelCNN:
# 12 layers of 32 channels take 7 ms of two cores an image in bf16, and come further in a minute than 7 of 64 at 11 ms; small batches make
# more steps of them.
PLANS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "made": (
        {"hidden": (3000,), "order": "random", "masks": 9, "shared": False},
        {
            "batch_size": 500,
            "lr": 2e-3,
            "ema": None,
            "optimizer": "adamw",
            "weight_decay": 0.1,
            "precision": "bf16",
            "validate_every": 6000,
        },
    ),
    "nade": ({"hidden": 500, "order": "random"}, {"batch_size": 50, "lr": 1e-3}),
    "pixelcnn": (
        {"layers": 12, "channels": 32},
        {
            "batch_size": 16,
            "lr": 3e-3,
            "warmup": 200,
            "optimizer": "adamw",
            "weight_decay": 0.05,
            "precision": "bf16",
            "validate_every": 12_000,
        },
    ),
    "pixelrnn": ({"kind": "diagonal", "layers": 3, "hidden": 16}, {"batch_size": 16, "lr": 3e-3}),
    "pixelcnnpp": ({"channels": 24, "blocks": 2}, {"batch_size": 16, "lr": 1e-3}),
}
"""Family -> its hyperparameters, its settings of training."""
TARGETS: dict[str, tuple[float, float]] = {"made": (30, 88.0), "pixelcnn": (90, 82.5)}
"""Family -> minutes on two cores, nats at most."""
ON_A_GPU = 80.0


class Steps(pf.Observer):
    """How many steps the minutes gave."""

    def on_step(self, loop: Any) -> None:
        self.done = loop.step


def settings_of(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE, the values in JSON; lists become tuples."""
    read = {key: json.loads(value) for key, _, value in (pair.partition("=") for pair in pairs)}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in read.items()}


def target_of(family: str, minutes: float, threads: int, records: int) -> str | None:
    """The limit, where the budget is kept to; None for fewer records than all."""
    if records < 10_000:
        return None
    if torch.cuda.is_available():
        return f"<= {ON_A_GPU}" if family == "pixelcnn" else None
    budget, nats = TARGETS.get(family, (0, 0))
    return f"<= {nats}" if budget and minutes <= budget and threads <= 2 else None


def pictures(model: pf.Model, test: Any, out: Path) -> None:
    """Samples at three temperatures, and test digits whose lower half is drawn anew, five times."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)

    def grid(rows: list[torch.Tensor]) -> Any:
        """Rows of digits, a grey line between them; values from 0 to 1."""
        framed = [torch.nn.functional.pad(r.float().reshape(-1, 28, 28) / 255, (1, 1, 1, 1), value=0.3) for r in rows]
        return torch.cat([torch.cat(list(r), 1) for r in framed])

    columns = 12
    drawn = [torch.as_tensor(model.sample(columns, seed=i, temperature=t)) for i, t in enumerate((1.0, 1.0, 0.8, 0.6))]
    known = torch.zeros(28, 28, dtype=torch.bool)
    known[:14] = True
    digits = torch.as_tensor(test[torch.arange(0, len(test), max(1, len(test) // columns))[:columns]].records())
    shown, names = [grid(drawn)], ["samples, at temperatures 1, 1, 0.8 and 0.6"]
    try:
        completed = [torch.as_tensor(model.complete(digits, known.numpy(), seed=s)) for s in range(4)]
        shown.append(grid([digits, torch.where(known, digits.reshape(-1, 28, 28), digits.max() // 2), *completed]))
        names.append("test digits, their upper halves, and four completions of each")
    except pf.Unsupported as error:
        print(error)
    heights = [s.shape[0] for s in shown]
    height = 8 * sum(heights) / (30 * columns) + 0.3 * len(shown)
    figure, axes = plt.subplots(len(shown), 1, figsize=(8, height), height_ratios=heights, squeeze=False, layout="constrained")
    for axis, image, name in zip(axes[:, 0], shown, names, strict=True):
        axis.imshow(image, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(name, fontsize=9, loc="left")
        axis.axis("off")
    figure.savefig(out / f"autoregressive_mnist_{model.name}.png", dpi=130)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=PLANS)
    parser.add_argument("--minutes", type=float, default=None, help="of training; 30 for made, else 90")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="hyperparameters in place of those of the plan")
    parser.add_argument("--fit", nargs="+", default=[], metavar="KEY=VALUE", help="settings of training in place of those of the plan")
    parser.add_argument("--records", type=int, default=10_000, help="test records to score")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="a folder for pictures; none are made without it")
    parser.add_argument("--runs", type=Path, default=None, help="a folder for the run; none is kept without it")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    family, minutes = given.family, given.minutes or TARGETS.get(given.family, (90, 0))[0]
    config, training = (plan | settings_of(pairs) for plan, pairs in zip(PLANS[family], (given.config, given.fit), strict=True))
    training = {"minutes": minutes, "schedule": "cosine", "ema": 0.999, "seed": given.seed, "progress": False} | training
    data = pf.load_data("binarized-mnist")
    test = data.test[torch.arange(0, len(data.test), max(1, len(data.test) // given.records))]
    settings = {
        "family": family,
        "hyperparameters": config,
        "training": training,
        "threads": given.threads,
        "records": len(test),
        "reduced": len(test) < len(data.test) or minutes < TARGETS.get(family, (90, 0))[0],
    }
    with Result(f"autoregressive_mnist_{family}", settings=settings, seeds=[given.seed], folder=given.results) as result:
        steps = Steps()
        model = create(family, **config).fit(data, out=None if given.runs is None else given.runs / family, observers=[steps], **training)
        result.add("parameters", sum(p.numel() for p in model.parameters()), kind="exact")
        result.add("steps", steps.done, kind="measured")
        nll = -model.log_prob(test)
        target = target_of(family, minutes, given.threads, len(test))
        result.add("test negative log-likelihood", float(nll.mean()), stderr=standard_error(nll), unit="nats", kind="exact", target=target)
        dims = 784 * torch.log(torch.tensor(2.0))
        result.add("test bits/dim", float(nll.mean() / dims), stderr=standard_error(nll / dims), unit="bits/dim", kind="exact")
        if len(model.orderings if family == "made" else ()) > 1:  # type: ignore[arg-type]
            x = test.tensor(model.dtype)
            with torch.no_grad():
                alone = torch.cat([-model._member(part, None, model.orderings[0]) for part in x.to(model.device).split(500)])  # type: ignore[operator, index]
            result.add("the same under the first of the masks alone", float(alone.mean()), unit="nats", kind="exact")
        begun = time.perf_counter()
        model.sample(64, seed=0)
        result.add("64 samples", time.perf_counter() - begun, unit="s", kind="measured")
        if given.out is not None:
            pictures(model, test, given.out)
