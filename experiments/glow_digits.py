"""Glow against RealNVP on grey images, the same processor time for each: likelihood bounds, exact inverses, samples.

    python experiments/glow_digits.py --seconds 300 --out PICTURES                                   (digits, about 25 minutes of one core)
    PUSHFORWARD_DATA=... python experiments/glow_digits.py --data mnist --seconds 7200 --out PICTURES (hours)
    python experiments/glow_digits.py --seconds 15 --out PICTURES                                    (reduced, 2 minutes of one core)

Contestants: `RealNVP` over flat vectors, couplings of dense nets with a learned D x D matrix between them; Glow; the multi-scale
RealNVP of the paper (`Glow(style="realnvp")`); and Glow with fitted noise (variational dequantisation). Time is the process's own
(user and system), so that other work on the machine does not count: a few steps are timed and the budget of steps follows. Each ends
with its learning rate at zero.

Bounds on log P(x) of the held-out records come from one draw of the noise, and from 16 averaged inside the logarithm.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _result import Result

import pushforward as pf
from pushforward.model import Model
from pushforward.models.exact.flow import RealNVP
from pushforward.models.exact.glow import Glow
from pushforward.plots import image_grid

CONTESTANTS: dict[str, tuple[Callable[[], Model], dict[str, Any]]] = {
    "realnvp, flat": (RealNVP, {}),
    "glow": (Glow, {}),
    "realnvp, multi-scale": (lambda: Glow(style="realnvp", steps=2), {}),
    "glow, fitted noise": (lambda: Glow(dequantisation="variational"), {}),
}


def steps_for(make: Callable[[], Model], data: Any, settings: dict[str, Any], seconds: float) -> int:
    """How many steps fit into so much processor time: what 40 steps take beyond 10, so that building and imports drop out."""
    took = []
    for steps in (10, 10, 40):  # the first warms caches up
        begun = time.process_time()
        make().fit(data, **settings, steps=steps)
        took.append(time.process_time() - begun)
    return max(50, round(seconds * 30 / (took[2] - took[1])))


def furthest(model: Any, sd: float, dtype: torch.dtype) -> float:
    """The largest error of f^-1(f(y)) over 64 made-up y from N(0, sd^2 I), far outside of the data."""
    flow = model.flow.to(dtype)
    y = sd * torch.randn(64, model.spec.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    with torch.no_grad():
        found = float((flow.inverse(flow(y)[0])[0] - y).abs().max())
    model.float()
    return found


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    data = pf.load_data(args.data)
    spec = data.schema.spec
    bits = 1 / (spec.dim * math.log(2))
    settings = {"data": args.data, "seconds of processor time each": args.seconds, "held-out records": len(data.test)}
    if args.seconds < 300:
        settings["size"] = "reduced: the full form takes 300 seconds each on digits"
    with Result("glow_digits" if args.data == "digits" else f"glow_{args.data}", settings=settings, seeds=[0]) as result:
        found: dict[str, float] = {}
        for name, (make, own) in CONTESTANTS.items():
            training = {**own, "progress": False, "alarms": False, "seed": 0}
            steps = steps_for(make, data, training, args.seconds)
            begun = time.process_time()
            model = make().fit(data, **training, steps=steps)
            took = time.process_time() - begun
            result.add(f"{name}: steps", steps, kind="measured")
            result.add(f"{name}: processor time, validation included", took, unit="s", kind="measured")
            for draws in (1, 16):
                log_prob = model.log_prob(data.test, seed=0, samples=draws)
                found[f"{name}, {draws}"] = mean = float(log_prob.mean())
                error = float(log_prob.std()) / len(log_prob) ** 0.5
                result.add(f"{name}: log P of held-out records, {draws} draws", mean, stderr=error, unit="nats", kind="bound")
            result.add(f"{name}: held-out, 16 draws", -mean * bits, stderr=error * bits, unit="bits per pixel", kind="bound")
            back = torch.as_tensor(model.decode(model.encode(data.test))).reshape(len(data.test), -1)
            seen = torch.as_tensor(data.test.records()).reshape(len(data.test), -1)
            same = float((back == seen).all(1).float().mean())
            result.add(f"{name}: records that decode(encode(x)) returns to the last level", same, kind="measured", target=">= 1")
            if isinstance(model, Glow):
                for sd, dtype, most in ((1, torch.float32, "1e-4"), (50, torch.float32, "1e-4"), (50, torch.float64, "1e-10")):
                    error = furthest(model, sd, dtype)
                    what = f"{name}: largest inverse error, {str(dtype).removeprefix('torch.')}, {sd} sd"
                    result.add(what, error, kind="measured", target=f"<= {most}")
            if args.out:
                args.out.mkdir(parents=True, exist_ok=True)
                for temperature in (1.0, 0.7) if isinstance(model, Glow) else (1.0,):
                    kw = {"temperature": temperature} if isinstance(model, Glow) else {}
                    drawn = data.schema.encode(model.sample(64, seed=1, **kw))
                    stem = name.replace(", ", "-").replace(" ", "-")
                    image_grid(drawn, spec).savefig(args.out / f"{args.data}-{stem}-{temperature:g}.png", dpi=110)
        best = found["realnvp, flat, 16"]
        result.add("glow above flat realnvp, 16 draws", found["glow, 16"] - best, unit="nats", kind="measured", target="> 0")
        result.add(
            "multi-scale above flat realnvp, 16 draws", found["realnvp, multi-scale, 16"] - best, unit="nats", kind="measured", target="> 0"
        )
        gain = found["glow, fitted noise, 1"] - found["glow, 1"]
        result.add("fitted above uniform noise, equal time, 1 draw", gain, unit="nats", kind="measured", target="> 0")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["digits", "mnist", "fashion-mnist"], default="digits")
    parser.add_argument("--seconds", type=float, default=300.0, help="processor time that each contestant trains for")
    parser.add_argument("--out", type=Path, help="a folder for pictures of samples")
    run(parser.parse_args())
