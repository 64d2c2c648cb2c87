"""Masked and gated networks: nothing leaks from later entries, and the incremental evaluation is the forward pass."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from pushforward.nn.masked import MaskedMLP
from pushforward.nn.pixelcnn import GatedPixelCNN

# Both evaluations add the same < 2000 products of order 1 in another order: in float64 they agree to 2000 * 2.2e-16 < 1e-12.
ROUNDING = 1e-12

MLPS = [
    # in_widths, out_widths, hidden, condition_dim, order, direct
    ([1] * 7, [1] * 7, (20, 13), 0, "natural", True),
    ([2, 1, 3, 1], [2, 1, 3, 6], (16, 5), 3, "random", False),
    ([1, 1, 2], [3, 3, 2], (2,), 0, "random", True),  # fewer units than degrees
    ([1, 1, 2], [3, 3, 2], (), 2, "random", True),  # linear
    ([1], [3], (8,), 2, "natural", False),
]


def starts(widths: list[int]) -> list[int]:
    return list(itertools.accumulate(widths, initial=0))


def dependence(net: MaskedMLP, c: Tensor | None) -> Tensor:
    """(D, D): the largest |d parameters of d / d features of e| at a random point."""
    x = torch.randn(1, sum(net.in_widths), dtype=torch.float64)
    J = torch.autograd.functional.jacobian(lambda z: net(z, c)[0], x)[:, 0].abs()
    rows, columns = starts(net.out_widths), starts(net.in_widths)
    pairs = [[J[a:b, e:f].max() for e, f in itertools.pairwise(columns)] for a, b in itertools.pairwise(rows)]
    return torch.tensor(pairs)


@pytest.mark.parametrize("case", MLPS)
def test_each_output_sees_exactly_the_variables_before_it(case: tuple) -> None:
    wi, wo, hidden, cd, order, direct = case
    net = MaskedMLP(wi, wo, hidden, cd, order, 1, direct).double()
    c = torch.randn(1, cd, dtype=torch.float64) if cd else None
    J = dependence(net, c)[net.sequence][:, net.sequence]
    assert torch.all(J.triu() == 0)
    if direct or not hidden:
        assert torch.all(J[torch.ones_like(J).tril(-1).bool()] > 0)


@pytest.mark.parametrize("case", MLPS)
def test_incremental_evaluation_equals_the_full_pass(case: tuple) -> None:
    wi, wo, hidden, cd, order, direct = case
    net = MaskedMLP(wi, wo, hidden, cd, order, 1, direct).double()
    c = torch.randn(5, cd, dtype=torch.float64) if cd else None
    x = torch.randn(5, sum(wi), dtype=torch.float64)
    si, so = starts(wi), starts(wo)
    parameters = torch.full((5, sum(wo)), torch.nan, dtype=torch.float64)
    visited: list[int] = []

    def choose(d: int, p: Tensor) -> Tensor:
        visited.append(d)
        parameters[:, so[d] : so[d + 1]] = p.T
        return x[:, si[d] : si[d + 1]].T

    net.incremental(5, c, choose)
    assert visited == net.sequence
    torch.testing.assert_close(parameters, net(x, c), rtol=0, atol=ROUNDING)


def test_a_condition_reaches_every_variable_the_first_included() -> None:
    net = MaskedMLP([1] * 4, [2] * 4, (32, 32), condition_dim=3).double()
    x = torch.randn(1, 4, dtype=torch.float64)
    J = torch.autograd.functional.jacobian(lambda c: net(x, c)[0], torch.randn(1, 3, dtype=torch.float64))[:, 0]
    assert torch.all(J != 0)
    # ... and not only linearly: units of degree 0 see c alone.
    H = [torch.autograd.functional.jacobian(lambda c: net(x, c)[0, 0], torch.randn(1, 3, dtype=torch.float64)) for _ in range(8)]
    assert len({tuple(h[0].tolist()) for h in H}) > 1


def test_the_random_order_is_fixed_by_its_seed() -> None:
    def order(seed: int) -> list[int]:
        return MaskedMLP([1] * 20, [1] * 20, (8,), order="random", order_seed=seed).sequence

    assert order(0) == order(0) != order(1)
    assert sorted(order(0)) == list(range(20))


IMAGES = [
    # channels, height, width, parameters, condition_dim
    (1, 7, 5, 1, 0),
    (1, 4, 6, 4, 3),
    (3, 5, 4, 4, 2),
    (2, 3, 9, 3, 0),
    (1, 1, 1, 2, 0),
]


def placed(net: GatedPixelCNN) -> GatedPixelCNN:
    """In float64, and no place like another."""
    for place in (net.place_v, net.place_h):
        if place is not None:
            nn.init.normal_(place)
    return net.double()


@pytest.mark.parametrize("case", IMAGES)
def test_no_gradient_from_later_pixels(case: tuple) -> None:
    """The Jacobian of the parameters, pixels in raster order and channels within a pixel, is strictly lower triangular."""
    C, H, W, P, cd = case
    # Enough features and images that no path is closed by the head's ReLUs in all of them.
    net = placed(GatedPixelCNN(C, P, layers=3, channels=24, condition_dim=cd, size=(H, W) if C > 1 else None))
    c = torch.randn(8, cd, dtype=torch.float64) if cd else None
    x = torch.randn(8, C, H, W, dtype=torch.float64)
    J = torch.autograd.functional.jacobian(lambda z: net(z, c).abs().sum((0, -1)), x).abs().sum(3)
    M = J.permute(1, 2, 0, 4, 5, 3).reshape(H * W * C, H * W * C)
    assert torch.all(M.triu() == 0)
    # No blind spot: within the reach of 3 + 1 + 1 pixels, everything before is seen.
    place = torch.arange(H * W * C) // C
    i, j = place // W, place % W
    near = ((i[:, None] - i).abs() <= 5) & ((j[:, None] - j).abs() <= 5)
    assert torch.all(M[near.tril(-1)] > 0)


@pytest.mark.parametrize("case", IMAGES)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("places", [False, True])
def test_cached_evaluation_equals_the_full_pass(case: tuple, layers: int, places: bool) -> None:
    C, H, W, P, cd = case
    net = placed(GatedPixelCNN(C, P, layers, channels=8, condition_dim=cd, size=(H, W) if places else None))
    c = torch.randn(4, cd, dtype=torch.float64) if cd else None
    x = torch.randn(4, C, H, W, dtype=torch.float64)
    parameters = torch.full((4, C, H, W, P), torch.nan, dtype=torch.float64)
    visited: list[tuple[int, int, int]] = []

    def choose(g: int, i: int, j: int, p: Tensor) -> Tensor:
        visited.append((i, j, g))
        parameters[:, g, i, j] = p.T
        return x[:, g, i, j]

    net.incremental(4, (H, W), c, choose)
    assert visited == list(itertools.product(range(H), range(W), range(C)))
    torch.testing.assert_close(parameters, net(x, c), rtol=0, atol=ROUNDING)


def test_float32_logits_of_the_default_size_agree_to_1e_5() -> None:
    """Sums of 2 * 64 * 9 products of order 0.05 over 7 layers: rounding of 1e-6 in float32, with a margin of ten."""
    net = GatedPixelCNN(1, 1)
    x = torch.randint(0, 2, (4, 1, 12, 10)).float() * 2 - 1
    parameters = torch.empty(4, 1, 12, 10, 1)

    def choose(g: int, i: int, j: int, p: Tensor) -> Tensor:
        parameters[:, g, i, j] = p.T
        return x[:, g, i, j]

    net.incremental(4, (12, 10), None, choose)
    torch.testing.assert_close(parameters, net(x), rtol=0, atol=1e-5)


def test_no_stack_of_gates_fades_at_first() -> None:
    """Independent inputs of sd 1: a stays near 1 in every layer, what is added to h near 1/2. With torch's own first weights the seventh
    layer's a has sd 0.0005. About each feature's mean, at places away from the frame; bounds of a factor of 1.5, for one draw of weights.
    """

    def about_mean(y: Tensor) -> float:
        inside = y[:, :, 9:, 9:-9]
        return float((inside - inside.mean((0, 2, 3), keepdim=True)).std())

    net = GatedPixelCNN(1, 1, layers=7, channels=64)
    seen: dict[str, list[float]] = {"vertical": [], "mix": []}
    for name, module in net.named_modules():
        kind = name.rsplit(".")[-1]
        if kind in seen:
            module.register_forward_hook(lambda m, x, y, kind=kind: seen[kind].append(about_mean(y)))
    with torch.no_grad():
        net(torch.randint(0, 2, (16, 1, 28, 28)).float() * 2 - 1)
    assert all(1 / 1.5 < sd < 1.5 for sd in seen["vertical"])
    assert all(0.5 / 1.5 < sd < 0.5 * 1.5 for sd in seen["mix"])
    assert len(seen["vertical"]) == len(seen["mix"]) == 7


def test_every_weight_of_a_network_gets_gradient() -> None:
    for net, x in (
        (GatedPixelCNN(3, 2, 2, 6, 2, size=(5, 5)), torch.randn(4, 3, 5, 5)),
        (MaskedMLP([1] * 4, [2] * 4, (8, 8), 2, direct=True), torch.randn(4, 4)),
    ):
        net(x, torch.randn(4, 2)).square().sum().backward()
        for name, p in net.named_parameters():
            assert p.grad is not None, name
            assert p.grad.abs().sum() > 0, name
