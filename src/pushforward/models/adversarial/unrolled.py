"""A critic some steps from now, as a differentiable function of the samples it would see (Metz et al. 2017)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["unrolled"]


def unrolled(net: nn.Module, loss: Callable[[nn.Module], Tensor], steps: int, lr: float) -> nn.Module:
    """`net` after `steps` steps of gradient descent on loss(net) (a scalar), equations 7 and 8.

    theta_{k+1} = theta_k - lr d loss(theta_k) / d theta_k, each step kept in the graph: what is computed with the returned network has
    gradients through all of them by whatever else `loss` depends on, such as a generator's parameters. `net` itself is left as it is.
    """
    now = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    for _ in range(steps):
        slopes = torch.autograd.grad(loss(_At(net, now)), list(now.values()), create_graph=True, allow_unused=True)
        now = {name: p if g is None else p - lr * g for (name, p), g in zip(now.items(), slopes)}
    return _At(net, now)


class _At(nn.Module):
    """A network at given parameters."""

    def __init__(self, net: nn.Module, parameters: dict[str, Tensor]):
        super().__init__()
        self._call = lambda *args: functional_call(net, parameters, args)  # the network stays outside: its weights are not ours

    def forward(self, *args: Tensor) -> Tensor:
        return self._call(*args)
