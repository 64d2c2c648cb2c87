"""A table multiplied by 10: every exact log-likelihood must fall by D ln 10, and the ranking must stay.

python experiments/scaling_law.py
"""

import math

import numpy as np
import torch
from _result import Result
from sklearn.datasets import load_iris

import pushforward as pf

SETTINGS = {"steps": 300, "batch_size": 32, "progress": False}

if __name__ == "__main__":
    torch.set_num_threads(1)
    table = load_iris().data.astype(np.float64)
    table += np.random.default_rng(0).uniform(-0.05, 0.05, table.shape)  # iris is rounded to 0.1: undo that, or densities spike
    with Result("scaling_law", settings={**SETTINGS, "data": "iris, 4 columns, jittered by its rounding"}) as result:
        fall, means = table.shape[1] * math.log(10), {}
        for name, kind in pf.catalog().items():
            if not kind.supports("log_prob") or kind.accepts(pf.load_data(table).spec):
                continue
            for factor in (1, 10):
                data = pf.load_data(table * factor)
                model = kind().fit(data, **SETTINGS)
                means[name, factor] = float(model.log_prob(data.test, seed=0).double().mean())
            moved = means[name, 1] - means[name, 10]
            off = abs(moved / fall - 1)
            what = f"{name} ({model.density}): log-likelihood falls by {moved:.5f}, D ln 10 = {fall:.5f}"
            result.add(what, off, unit="relative error", kind=model.density, target="<= 1e-4", holds=off <= 1e-4)
        order = [sorted({n for n, _ in means}, key=lambda n: means[n, f]) for f in (1, 10)]
        result.add("ranking unchanged", float(order[0] == order[1]), kind="exact", target="1", holds=order[0] == order[1])
