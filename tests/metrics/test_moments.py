"""Means and covariances that arrive in pieces: whatever the pieces, the whole."""

import math
import multiprocessing
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import randn

from pushforward.errors import DataError
from pushforward.metrics import Moments, moments, reduce_moments

ROUNDING = {"rtol": 1e-12, "atol": 1e-12}
"""Sums of a few hundred terms of order 1 in float64: at most 1e3 * 2.2e-16 of the largest partial sum."""


def seen(*parts: torch.Tensor) -> Moments:
    whole = Moments()
    for part in parts:
        whole.update(part)
    return whole


def equal(a: Moments, b: Moments, **tolerance: float) -> None:
    assert a.n == b.n
    torch.testing.assert_close(a.mean, b.mean, **(tolerance or ROUNDING))
    torch.testing.assert_close(a.covariance, b.covariance, **(tolerance or ROUNDING))


def test_moments_are_unbiased():
    mean, cov = moments(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
    assert mean.tolist() == [1.0, 2.0]
    assert cov.tolist() == [[2.0, 4.0], [4.0, 8.0]]
    with pytest.raises(DataError, match="at least 2 records, got 1"):
        moments(torch.zeros(1, 3))


@pytest.mark.parametrize("sizes", [(300,), (1, 1, 298), (150, 0, 150), (97, 3, 200)])
def test_any_batches_and_blocks_give_numpys_covariance(sizes, monkeypatch):
    module = sys.modules["pushforward.metrics.moments"]  # the package's attribute of that name is the function
    monkeypatch.setattr(module, "ROWS", 64)
    monkeypatch.setattr(module, "COLUMNS", 3)  # 7 features: two whole blocks and a rest
    x = randn(300, 7) @ randn(7, 7, seed=1) + 2.0
    got = seen(*x.split(list(sizes)))
    torch.testing.assert_close(got.mean, x.mean(0), **ROUNDING)
    torch.testing.assert_close(got.covariance, torch.from_numpy(np.cov(x.numpy(), rowvar=False)), **ROUNDING)


def test_a_mean_of_a_million_standard_deviations_costs_no_digits():
    # The records themselves are rounded to eps * 1e6 = 1.2e-10 and so are means: 1e-9 of a variance of 1. Sums of squares about the
    # origin would be wrong by eps * 1e12 = 2e-4.
    x = randn(500, 4)
    torch.testing.assert_close(seen(*(x + 1e6).split(50)).covariance, moments(x)[1], rtol=0, atol=1e-9)


def test_a_stream_in_order_of_size_is_no_worse():
    x = torch.arange(3000, dtype=torch.float64)[:, None] * torch.tensor([[1.0, -2.0]])
    # 0 ... n - 1 has the unbiased variance n (n + 1)/12
    variance = 3000 * 3001 / 12
    expected = variance * torch.tensor([[1.0, -2.0], [-2.0, 4.0]]).double()
    torch.testing.assert_close(seen(*x.split(7)).covariance, expected, rtol=1e-12, atol=0)


def test_shards_merge_to_the_whole_and_an_empty_one_changes_nothing():
    x = randn(200, 5)
    shards = [seen(part) for part in x.split([60, 1, 139])]
    whole = Moments().merge(Moments())
    for shard in shards:
        whole.merge(shard).merge(Moments())
    equal(whole, seen(x))
    equal(shards[0], seen(x[:60]))  # as it was
    equal(whole.update(x), seen(x, x))


def test_leaving_a_group_out_gives_the_moments_of_the_rest():
    x = randn(200, 5) + 3.0
    equal(seen(x).without(seen(x[40:60])), seen(x[:40], x[60:]))
    with pytest.raises(DataError, match="Cannot leave 200 records of 5 features out of 200 of 5"):
        seen(x).without(seen(x))


def test_float32_and_integer_features_are_summed_in_float64():
    x = (100 + randn(400, 6)).float()
    equal(seen(x), seen(x.double()))
    assert moments(torch.tensor([[0, 200], [255, 100]], dtype=torch.uint8))[1].tolist() == [[32512.5, -12750.0], [-12750.0, 5000.0]]


def test_tensors_and_back():
    from safetensors.torch import load, save

    x = randn(50, 4)
    equal(Moments.from_tensors(load(save(seen(x[:20]).to_tensors()))).update(x[20:]), seen(x))
    with pytest.raises(DataError, match="mean of 3 features cannot go with a scatter of shape"):
        Moments.from_tensors({"n": torch.tensor(4), "mean": torch.zeros(3), "scatter": torch.zeros(2, 2)})


def test_errors_say_what_is_wrong_with_features():
    with pytest.raises(DataError, match=r"table \(records, features\), got shape \(2, 3, 4\): flatten"):
        moments(torch.zeros(2, 3, 4))
    with pytest.raises(DataError, match="3 and of 2 features cannot be compared"):
        seen(torch.zeros(2, 2), torch.zeros(2, 3))
    x = torch.zeros(5000, 2)
    x[4000, 1] = math.nan
    with pytest.raises(DataError, match="Features of record 4001 are not finite"):
        seen(torch.zeros(1, 2), x)


def reduced(rank: int, folder: Path) -> None:
    """One of two gloo processes: its share of the records, then, of all records, only those of the other."""
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    x = randn(200, 5) + 1e3
    got = [reduce_moments(seen(x[:30] if rank else x[30:])), reduce_moments(seen(x) if rank else Moments())]
    torch.save([m.to_tensors() for m in got], folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_reduce_to_the_whole(tmp_path):
    assert reduce_moments(own := seen(randn(3, 2))) is own
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=reduced, args=(rank, tmp_path)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    x = randn(200, 5) + 1e3
    for rank in range(2):
        for state in torch.load(tmp_path / f"{rank}.pt", weights_only=True):
            # mean 1e3, known to eps * 1e3 = 2.2e-13 however the sum is split: 1e-12 of the mean, 1e-10 of the covariance at most
            equal(Moments.from_tensors(state), seen(x), rtol=1e-12, atol=1e-10)
