"""What each feature space sees: labels, two digits missing, blur; on MNIST, 2,000 test records against 2,000 others.

python experiments/feature_spaces.py
"""

import math
import time

import torch
from _result import Result

import pushforward as pf
from pushforward.data import Data, Records
from pushforward.metrics import frechet_distance, manifold, moments
from pushforward.spaces import FeatureSpace, spaces

N = 2000
KEYS = ("raw", "pca", "random-conv", "learned")


def nearest_labels(space: FeatureSpace, train: Records, test: Records) -> float:
    """Share of test records whose label is that of most of their 5 nearest among as many training records."""
    assert train.condition is not None
    near = torch.cdist(space(test.tensor()), space(train.tensor())).topk(5, largest=False).indices
    votes = torch.nn.functional.one_hot(train.condition[near], 10).sum(1).argmax(1)
    return float((votes == test.condition).double().mean())


def blurred(x: torch.Tensor) -> torch.Tensor:
    """Every pixel becomes the mean of the 3 x 3 around it, rounded to a grey level."""
    return torch.nn.functional.avg_pool2d(torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1).round()


if __name__ == "__main__":
    torch.set_num_threads(1)
    data = pf.load_data("mnist")
    schema = data.schema.with_condition(None)
    bare = Data(schema, Records(schema, data.train.x), Records(schema, data.validation.x), Records(schema, data.test.x))
    g = torch.Generator().manual_seed(0)
    real = data.test.subset(torch.randperm(len(data.test), generator=g)[:N])
    rows = torch.randperm(len(data.train), generator=g)
    fresh, known = data.train.subset(rows[:N]), data.train.subset(rows[N : 2 * N])
    rest = data.train.subset(rows[2 * N : 4 * N])
    assert rest.condition is not None
    x = fresh.tensor()
    fakes = {
        "fresh records": x,
        "8 and 9 missing": rest.subset((rest.condition < 8).nonzero().flatten()[:N]).tensor(),
        "half blurred": torch.cat([x[: N // 2], blurred(x[N // 2 :])]),
        "all blurred": blurred(x),
    }
    settings = {"data": "mnist", "records": N, "neighbours": 5, "blur": "mean of 3 x 3", "threads": 1}
    with Result("feature_spaces", settings=settings, seeds=[0]) as result:
        accuracy = {}
        for key in (*KEYS, "learned without labels"):
            started = time.process_time()
            space = spaces(bare if "without" in key else data, which=key.split()[0], cache=False)[key.split()[0]]
            seconds = time.process_time() - started
            limit = "<= 40" if "learned" in key else None
            result.add(f"{key} ({space.dim} features): made in", seconds, unit="processor seconds", kind="measured", target=limit)
            p = accuracy[key] = nearest_labels(space, known, real)
            wanted = f">= {accuracy['pca']}" if "learned" in key else None
            name = f"{key}: labels of the 5 nearest records right"
            result.add(name, p, stderr=math.sqrt(p * (1 - p) / N), unit="share", kind="measured", target=wanted)
            if space.classes:
                name = f"{key}: the classifier's own labels right, all {space.details['accuracy_records']} test records"
                result.add(name, space.details["accuracy"], unit="share", kind="measured")
            a, base = space(real.tensor()), 0.0
            for what, fake in fakes.items():
                b = space(fake)
                found, distance = manifold(a, b), frechet_distance(*moments(a), *moments(b))
                base = base or distance
                for figure in ("precision", "coverage"):
                    result.add(f"{key}, {what}: {figure}", found[figure].value, stderr=found[figure].stderr, kind="estimate")
                result.add(f"{key}, {what}: Fréchet distance over that of fresh records", distance / base, kind="estimate")
