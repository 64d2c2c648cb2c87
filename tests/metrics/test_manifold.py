"""Intervals of precision, recall, density and coverage; every tolerance is derived beside its use."""

import pytest
import torch

from pushforward import metrics


def test_intervals_hold_the_expected_figures_of_equal_sets():
    # E[density] = 1 and E[coverage] = expected_coverage, in any dimension. 60 repetitions of an interval that holds its value in 92 %:
    # 44 or fewer with probability 5e-6. The standard deviation of 60
    # values has a relative error of 9 %, and 2.7 of those are 25 %. A binomial error alone is 32 % short for the density here.
    found = []
    for seed in range(60):
        x, y = torch.randn(2, 100, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        found.append(metrics.manifold(x, y))
    for name, truth in (("density", 1.0), ("coverage", metrics.expected_coverage(100, 100))):
        assert sum(f[name].low <= truth <= f[name].high for f in found) > 44
    for name in found[0]:
        errors = torch.tensor([f[name].stderr for f in found]).square().mean().sqrt()
        assert float(errors / torch.tensor([f[name].value for f in found]).std()) == pytest.approx(1.0, abs=0.25), name


def test_intervals_are_about_the_figures_and_the_seed_fixes_them():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(80, 3, generator=g), torch.randn(90, 3, generator=g) + 0.3
    found, plain = metrics.manifold(x, y), metrics.precision_recall_density_coverage(x, y)
    for name, value in vars(plain).items():
        assert found[name].value == value
        assert found[name].low < value <= found[name].high
        assert name == "density" or 0 <= found[name].low <= found[name].high <= 1
    assert metrics.manifold(x, y, seed=3) == metrics.manifold(x, y, seed=3)
    few = metrics.manifold(x[:24], y)
    assert few["density"].value == metrics.precision_recall_density_coverage(x[:24], y).density
    assert not few["density"].known


def test_radii_within_a_part():
    from pushforward.metrics.neighbours import _neighbours, _part_radii

    x = torch.tensor([[0.0], [1.0], [3.0], [7.0], [8.0]]).double()
    part = torch.tensor([0, 1, 0, 1, 0])
    # in part 0: 0, 3, 8; in part 1: 1, 7
    assert _part_radii(_neighbours(x), part, 1).tolist() == pytest.approx([9.0, 36.0, 9.0, 36.0, 25.0])
