"""The Parzen window ranks a handful of averages above the data's own distribution (Theis, van den Oord & Bethge 2016, section 3.3).

    PUSHFORWARD_DATA=... python experiments/parzen.py        (MNIST; without the variable the built-in digits)

A perfect model's samples are fresh training records. A "model" that draws one of K centroids of k-means is a set of K points: it has no
density, covers nothing between them, and all its log-likelihoods are minus infinity. The window prefers it.
"""

import os

import torch
from _result import Result
from sklearn.cluster import MiniBatchKMeans

import pushforward as pf
from pushforward.metrics import mean_estimate
from pushforward.metrics.parzen import parzen_log_prob, parzen_sigma

K = 1000


def run() -> None:
    torch.set_num_threads(1)
    name = "mnist" if os.environ.get("PUSHFORWARD_DATA") else "digits"
    data = pf.load_data(name)
    k = K if name == "mnist" else 200
    g = torch.Generator().manual_seed(0)
    split = [r.tensor(torch.float64).flatten(1) / 255 for r in (data.train, data.validation, data.test)]
    train, validation, test = (x + torch.rand(x.shape, generator=g, dtype=x.dtype) / 255 for x in split)
    train, validation, test = train[:20_000], validation[:1000], test[:1000]
    centroids = MiniBatchKMeans(k, random_state=0, n_init=1, batch_size=4096).fit(train.numpy()).cluster_centers_
    with Result("parzen", settings={"data": name, "samples": k, "training records": len(train)}, seeds=[0]) as result:
        found = {}
        for who, samples in (
            ("the data's own distribution", train[:k]),
            (f"{k} centroids of k-means", torch.from_numpy(centroids).double()),
        ):
            sigma = parzen_sigma(samples, validation)
            found[who] = mean_estimate(parzen_log_prob(samples, test, sigma))
            result.add(f"Parzen window (sd {sigma:.3g}): {who}", found[who].value, stderr=found[who].stderr, unit="nats", kind="estimate")
        truth, points = (e.value for e in found.values())
        result.add("centroids above the data's own distribution", points - truth, unit="nats", kind="measured", target="> 0")


if __name__ == "__main__":
    run()
