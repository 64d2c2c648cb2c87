"""Flows of zuko, nflows and normflows, built as ours: the same layers, widths, bins and box, the order of entries reversed in between.

Every builder returns `Peer`: the module, log p of records (B, D), and a sampler. What each library needs for that:

* nflows hands a coupling's network a context that its own MLP does not take, and divides raw bins by the root of `hidden_features`, which
  that MLP does not have: a subclass of three lines has both.
* normflows' `forward` goes from codes to data, so that its autoregressive maps used plainly are slow in log_prob; here they are turned.
* zuko's couplings alternate between odd and even entries, as the library has it, instead of reversing.
"""

import importlib.util
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Kind = Literal["affine coupling", "affine autoregressive", "spline coupling", "spline autoregressive"]


@dataclass
class Peer:
    module: nn.Module
    log_prob: Callable[[Tensor], Tensor]
    sample: Callable[[int], Tensor]


def find_peers(folder: str | None) -> list[str]:
    """The names of the peers that can be imported, once `folder` is on the path; a line for each that cannot."""
    if folder:
        sys.path.append(folder)
    found = [name for name in BUILD if importlib.util.find_spec(name) is not None]
    for name in BUILD.keys() - set(found):
        print(f"{name} is not installed: left out")
    return found


def zuko(kind: Kind, dim: int, layers: int, hidden: int, bins: int, bound: float) -> Peer:
    import zuko  # pyright: ignore[reportMissingImports]

    assert bound == 5.0, "zuko's box is [-5, 5]"
    widths, spline = (hidden, hidden), zuko.transforms.MonotonicRQSTransform
    if kind == "affine coupling":
        flow = zuko.flows.NICE(dim, transforms=layers, hidden_features=widths)
    elif kind == "affine autoregressive":
        flow = zuko.flows.MAF(dim, transforms=layers, hidden_features=widths)
    elif kind == "spline coupling":
        shapes = [(bins,), (bins,), (bins - 1,)]
        flow = zuko.flows.NICE(dim, transforms=layers, hidden_features=widths, univariate=spline, shapes=shapes)
    else:
        flow = zuko.flows.NSF(dim, bins=bins, transforms=layers, hidden_features=widths)
    return Peer(flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,)))


def nflows(kind: Kind, dim: int, layers: int, hidden: int, bins: int, bound: float, linear: bool = False) -> Peer:
    """`linear` puts LU matrices between the maps, as Durkan et al. do, instead of reversals."""
    from nflows.distributions import StandardNormal  # pyright: ignore[reportMissingImports]
    from nflows.flows import Flow  # pyright: ignore[reportMissingImports]
    from nflows.nn.nets import MLP  # pyright: ignore[reportMissingImports]
    from nflows.transforms import autoregressive, base, coupling  # pyright: ignore[reportMissingImports]
    from nflows.transforms.lu import LULinear  # pyright: ignore[reportMissingImports]
    from nflows.transforms.permutations import RandomPermutation, ReversePermutation  # pyright: ignore[reportMissingImports]

    class Net(MLP):
        hidden_features = hidden

        def forward(self, x: Tensor, context: Any = None) -> Tensor:
            return super().forward(x)

    def net(a: int, b: int) -> nn.Module:
        return Net((a,), (b,), [hidden, hidden])

    mask = (torch.arange(dim) >= dim // 2).int()
    made = {"num_blocks": 1, "use_residual_blocks": False}
    box = {"num_bins": bins, "tails": "linear", "tail_bound": bound}
    maps: list[nn.Module] = []
    for i in range(layers):
        if linear:
            maps += [RandomPermutation(dim), LULinear(dim, identity_init=True)]
        elif i:
            maps.append(ReversePermutation(dim))
        if kind == "affine coupling":
            maps.append(coupling.AffineCouplingTransform(mask, net))
        elif kind == "affine autoregressive":
            maps.append(autoregressive.MaskedAffineAutoregressiveTransform(dim, hidden, **made))
        elif kind == "spline coupling":
            maps.append(coupling.PiecewiseRationalQuadraticCouplingTransform(mask, net, **box))
        else:
            maps.append(autoregressive.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(dim, hidden, **box, **made))
    flow = Flow(base.CompositeTransform(maps), StandardNormal([dim]))
    return Peer(flow, flow.log_prob, flow.sample)


def normflows(kind: Kind, dim: int, layers: int, hidden: int, bins: int, bound: float) -> Peer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import normflows as nf  # pyright: ignore[reportMissingImports]
        from normflows.flows.neural_spline import autoregressive, coupling  # pyright: ignore[reportMissingImports]

    class Turned(nf.flows.Flow):
        def __init__(self, map: nn.Module):
            super().__init__()
            self.map = map

        def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
            x, log_det = self.map.inverse(z)  # pyright: ignore[reportCallIssue]
            return x, log_det.view(-1)

        def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
            z, log_det = self.map(x)
            return z, log_det.view(-1)

    class Net(nf.nets.MLP):
        hidden_features = hidden

        def forward(self, x: Tensor, context: Any = None) -> Tensor:
            return super().forward(x)

    def net(a: int, b: int) -> nn.Module:
        return Net([a, hidden, hidden, b])

    first = (dim + 1) // 2
    made = {"num_blocks": 1, "use_residual_blocks": False}
    box = {"num_bins": bins, "tails": "linear", "tail_bound": bound}
    maps: list[nn.Module] = []
    for i in range(layers):
        if i:
            maps.append(nf.flows.Permute(dim, mode="swap"))
        if kind == "affine coupling":
            maps.append(nf.flows.AffineCouplingBlock(net(first, 2 * (dim - first))))
        elif kind == "affine autoregressive":
            maps.append(Turned(nf.flows.MaskedAffineAutoregressive(dim, hidden, **made)))
        elif kind == "spline coupling":
            maps.append(Turned(coupling.PiecewiseRationalQuadraticCoupling((torch.arange(dim) >= first).int(), net, **box)))
        else:
            maps.append(Turned(autoregressive.MaskedPiecewiseRationalQuadraticAutoregressive(dim, hidden, **box, **made)))
    flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(dim, trainable=False), maps)
    return Peer(flow, flow.log_prob, lambda n: flow.sample(n)[0])


BUILD: dict[str, Callable[..., Peer]] = {"zuko": zuko, "nflows": nflows, "normflows": normflows}
