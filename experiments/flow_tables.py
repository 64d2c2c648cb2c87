"""Eight continuous tables: held-out log-likelihood of our spline flow beside those of zuko and nflows of the same size.

All three are autoregressive rational-quadratic spline flows (Durkan et al. 2019, RQ-NSF (AR)): equally many maps, two hidden layers, bins
on [-5, 5]. Between maps ours and nflows' have LU matrices, as in that paper; zuko's NSF reverses the entries, as that library has it.
They are trained by one loop: the same batches of the same records, fused Adam with gradients clipped, the rate falling as a cosine over the
budget, equal seconds of processor time on one thread (validations left out), the same early stopping: validation at every fortieth of the
budget, the best weights kept, an end after ten validations without better ones.

Data: 80 % of the rows train, 10 % validate, 10 % test, drawn anew for each seed; columns standardised by the training rows, constant ones
left out. Most tables have columns of few values, heaps, or columns that are copies of others, where a density may grow without bound: all
columns of all tables get normal noise of 0.05 standard deviations, drawn anew for each training batch and once for the other rows,
the same for all three flows. Likelihoods are of these noisy standardised columns, in nats a record; nothing was chosen by test rows.

A difference is ours less the other's, over the same test rows; its standard error is the larger of that over rows and that over seeds.
Within two of them it is called a tie.

    pip install --no-deps --target PEERS zuko==1.6.0 nflows==0.14
    python experiments/flow_tables.py --peers PEERS --minutes 5 --seeds 0 1 2      # at most 6 hours of one core
    python experiments/flow_tables.py --peers PEERS --minutes 0.5                  # at most 15 minutes
"""

import argparse
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _flow_peers import BUILD, Peer, find_peers
from _result import Result
from torch import Tensor

from pushforward.data.spec import DataSpec
from pushforward.models.exact.maf import AutoregressiveSplineFlow
from pushforward.rng import Rng

NOISE, BOUND, CLIP, VALIDATIONS, PATIENCE = 0.05, 5.0, 5.0, 40, 10
KIND = "spline autoregressive"


def split(table: np.ndarray, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Training, validation and test rows: standardised, the last two with their noise."""
    table = table[:, table.std(0) > 0]
    order = np.random.default_rng(seed).permutation(len(table))
    tenth = len(table) // 10
    test, validation, train = table[order[:tenth]], table[order[tenth : 2 * tenth]], table[order[2 * tenth :]]
    mean, sd = train.mean(0), train.std(0)
    parts = [torch.from_numpy((part - mean) / np.where(sd > 0, sd, 1)).float() for part in (train, validation, test)]
    g = torch.Generator().manual_seed(seed)
    return parts[0], *(x + NOISE * torch.randn(x.shape, generator=g) for x in parts[1:])


def made(name: str, dim: int, seed: int, given: argparse.Namespace) -> Peer:
    if name == "pushforward":
        model = AutoregressiveSplineFlow(given.maps, given.bins, BOUND, (given.hidden,) * 2, "lu").build(
            DataSpec("table", (dim,)), seed=seed
        )
        return Peer(model.flow, lambda x: model._log_prob(x, None, Rng.seeded(0)), lambda n: model.sample(n))
    torch.manual_seed(seed)
    return BUILD[name](KIND, dim, given.maps, given.hidden, given.bins, BOUND, **({"linear": True} if name == "nflows" else {}))


def mean(log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([log_prob(part) for part in x.split(1024)])


def fit(flow: Peer, train: Tensor, validation: Tensor, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """Train, leaving the best weights; how many steps, of which the best was after so many."""
    optimizer = torch.optim.Adam(flow.module.parameters(), lr=given.lr, fused=True)
    g = torch.Generator().manual_seed(seed)
    budget, spent, steps, skipped, bad, checked = 60 * given.minutes, 0.0, 0, 0, 0, 0
    best, best_value, best_step = None, -math.inf, 0
    size = min(given.batch, len(train))
    order, at = torch.randperm(len(train), generator=g), 0
    while spent < budget and bad < PATIENCE:
        start = time.process_time()
        if at + size > len(train):
            order, at = torch.randperm(len(train), generator=g), 0
        x = train[order[at : at + size]]
        at += size
        x = x + NOISE * torch.randn(x.shape, generator=g)
        for group in optimizer.param_groups:
            group["lr"] = given.lr * 0.5 * (1 + math.cos(math.pi * spent / budget))
        loss = -flow.log_prob(x).mean()
        optimizer.zero_grad()
        if math.isfinite(loss.item()):
            loss.backward()
            torch.nn.utils.clip_grad_norm_(flow.module.parameters(), CLIP)
            optimizer.step()
        else:
            skipped += 1
        steps += 1
        spent += time.process_time() - start
        if spent >= (checked + 1) * budget / VALIDATIONS or spent >= budget:
            checked = int(spent * VALIDATIONS / budget)
            flow.module.eval()
            value = float(mean(flow.log_prob, validation).mean())
            flow.module.train()
            if value > best_value:
                best_value, best_step, bad = value, steps, 0
                best = {k: v.clone() for k, v in flow.module.state_dict().items()}
            else:
                bad += 1
    assert best is not None, "no validation was finite"
    flow.module.load_state_dict(best)
    flow.module.eval()
    return {"steps": steps, "best": best_step, "seconds": round(spent, 1), "skipped": skipped, "validation": best_value}


def difference(ours: list[Tensor], theirs: list[Tensor]) -> tuple[float, float]:
    """Mean over rows and seeds, and its standard error."""
    gaps = [(a - b).double() for a, b in zip(ours, theirs, strict=True)]
    rows, seeds = torch.cat(gaps), torch.stack([gap.mean() for gap in gaps])
    error = float(rows.std()) / len(rows) ** 0.5
    return float(rows.mean()), max(error, float(seeds.std()) / len(seeds) ** 0.5 if len(seeds) > 1 else 0.0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="a folder with zuko and nflows")
    parser.add_argument("--minutes", type=float, required=True, help="processor time of each fit")
    parser.add_argument("--tables", nargs="*", help="names of tables; all by default")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--maps", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--bins", type=int, default=8)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--dry", action="store_true", help="validation figures only, nothing written")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = np.load(Path(os.environ["PUSHFORWARD_DATA"]) / "tabular" / "uci_regression.npz")
    tables = given.tables or sorted(found.files)
    names = ["pushforward", *(name for name in find_peers(given.peers) if name != "normflows")]
    chosen = {k: v for k, v in vars(given).items() if k not in ("peers", "seeds", "dry")}
    settings = chosen | {"tables": tables, "noise": NOISE, "flows": names, "threads": 1}
    result = Result("flow_tables", settings=settings, seeds=given.seeds)
    wins = dict.fromkeys(names[1:], 0)
    at_least, not_below, ties = 0, 0, 0
    for table in tables:
        scores: dict[str, list[Tensor]] = {name: [] for name in names}
        for seed in given.seeds:
            train, validation, test = split(found[table], seed)
            for name in names:
                flow = made(name, train.shape[1], seed, given)
                fitted = fit(flow, train, validation, seed, given)
                fitted["parameters"] = sum(p.numel() for p in flow.module.parameters() if p.requires_grad)
                print(f"{table}, seed {seed}, {name}: {fitted}", flush=True)
                result.settings.setdefault("fits", {})[f"{table}, seed {seed}, {name}"] = fitted
                scores[name].append(mean(flow.log_prob, test))
        if given.dry:
            continue
        for name, values in scores.items():
            v = torch.cat(values).double()
            result.add(f"{table}: {name}", float(v.mean()), stderr=float(v.std()) / len(v) ** 0.5, unit="nats", kind="exact")
        gaps = {name: difference(scores["pushforward"], scores[name]) for name in names[1:]}
        for name, (gap, error) in gaps.items():
            verdict = "a tie" if abs(gap) <= 2 * error else "ours is better" if gap > 0 else "ours is worse"
            result.add(f"{table}: ours less {name}'s ({verdict})", gap, stderr=error, unit="nats", kind="paired difference")
            wins[name] += gap >= 0
        at_least += all(gap >= 0 for gap, _ in gaps.values())
        not_below += all(gap >= -2 * error for gap, error in gaps.values())
        ties += any(abs(gap) <= 2 * error for gap, error in gaps.values())
    if not given.dry and names[1:]:
        for name, count in wins.items():
            result.add(f"tables where ours is at least {name}'s", count, unit=f"of {len(tables)}", kind="measured")
        result.add("tables where ours is at least both", at_least, unit=f"of {len(tables)}", kind="measured", target=">= 6")
        result.add("tables where ours is below neither by more than two errors", not_below, unit=f"of {len(tables)}", kind="measured")
        result.add("tables with a tie", ties, unit=f"of {len(tables)}", kind="measured")
        result.write()
