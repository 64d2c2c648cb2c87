"""Noise with a density of its own, for variational dequantisation."""

import torch
from torch import Tensor, nn

from .base import Bijection

__all__ = ["VariationalNoise"]


class VariationalNoise(nn.Module):
    r"""Noise fitted to each record, u ~ q(u \| x) on the unit cube, for levels made continuous: u = Phi(y), y = g(e; x), e ~ N(0, I).

    Phi is the standard normal distribution function and g a flow given x. Then

        log q(u | x) = log phi(e) - log|det dg/de| - sum_i log phi(y_i)        and        log P(x) >= E_q[log p(x + u) - log q(u | x)],

    a bound that uniform noise, which is g the identity, cannot exceed once g is trained.

    Source: Ho, Chen, Srinivas, Duan and Abbeel, Flow++ (2019), section 3.1, with Phi in place of their logistic function.
    """

    def __init__(self, flow: Bijection):
        super().__init__()
        self.flow = flow

    def forward(self, e: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """(u, log q(u | x)) from standard normal e (B, ...) and the flow's condition, made of x."""
        y, log_det = self.flow(e, context)
        log_q = 0.5 * (y.square() - e.square()).flatten(1).sum(1) - log_det
        # Phi reaches 0 and 1 in floating point, where a logit would not be finite.
        one = torch.finfo(y.dtype)
        return torch.special.ndtr(y).clamp(one.tiny, 1 - one.eps), log_q
