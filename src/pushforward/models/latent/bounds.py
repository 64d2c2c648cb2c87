r"""Bounds on log p(x) as functions of log-weights, and the gradients that they can be climbed by.

log w_k = log p(x | z_k) + beta (log p(z_k) - log q(z_k | x)) for K draws z_k of q, in rows (B, K). With beta = 1,

    ELBO = E[log w] <= L_K = E[log (1/K) sum_k w_k] <= L_{K+1} <= log p(x)        (Burda et al. 2016, theorem 1).

All functions are pure. The *value* of a surrogate is always that of its bound: only its gradient differs.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["dreg", "free_bits", "log_mean_weight", "score_surrogate", "vimco_signal"]


def log_mean_weight(log_w: Float[Tensor, "B K"], log_share: Float[Tensor, "B K"] | None = None) -> Float[Tensor, " B"]:
    """log sum_k share_k w_k, with shares 1/K unless they are given (strata of a mixture; Morningstar et al. 2021, equation 8)."""
    if log_share is None:
        return log_w.logsumexp(1) - math.log(log_w.shape[1])
    return (log_w + log_share).logsumexp(1)


def free_bits(kl: Float[Tensor, "B G"], nats: float) -> Float[Tensor, "B G"]:
    """Each group's KL, or `nats` where its mean over the batch is less: sum_g max(nats, mean KL_g) on average (Kingma et al. 2016, eq. 15).

    A group below the threshold has no gradient: the first `nats` that a code says are free.
    """
    return torch.where(kl.mean(0) < nats, kl.new_tensor(nats), kl)


def vimco_signal(log_w: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """What each draw's score is multiplied by: the bound less a baseline that does not depend on that draw.

    K > 1: the bound with log w_k replaced by the mean of the others' (VIMCO, Mnih & Rezende 2016, equation 10). K = 1: the mean of log w
    over the batch's other records, which are independent of this one, so that the gradient stays unbiased.
    """
    B, K = log_w.shape
    if K == 1:
        return log_w - (log_w.sum() - log_w) / (B - 1) if B > 1 else log_w
    others = (log_w.sum(1, keepdim=True) - log_w) / (K - 1)
    replaced = log_w[:, None].expand(-1, K, -1).clone()
    replaced.diagonal(dim1=1, dim2=2).copy_(others)
    return (log_w.logsumexp(1, keepdim=True) - replaced.logsumexp(2)).detach()


def score_surrogate(log_w: Float[Tensor, "B K"], log_q: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
    """L_K, with the score-function gradient (Williams 1992; Ranganath et al. 2014) in what log q depends on.

    The draws must be detached. d E[L] = E[dL + sum_k L d log q(z_k)]; each L in the second term is less its baseline.
    """
    bound = log_mean_weight(log_w)
    score = (vimco_signal(log_w.detach()).detach() * log_q).sum(1)
    return bound + score - score.detach()


def dreg(z: Float[Tensor, "B K d"], log_w: Callable[[Tensor], Float[Tensor, "B K"]], beta: float = 1.0) -> Float[Tensor, "B K"]:
    """log_w(z), arranged so that the gradient of `log_mean_weight` of it by q's parameters is the doubly reparametrised one.

    `log_w` must hold q's parameters constant in log q(z | x). The score of log q, whose mean is zero for K = 1 and is reparametrised once
    more for K > 1, then appears as a second factor of the normalised weights (Tucker et al. 2019, equation 8):

        sum_k v_k (1 - beta + beta v_k) (d log w_k / d z_k) (d z_k / d phi),    v_k = w_k / sum_j w_j.

    (beta = 1 is their equation; with another weight of log q the score enters beta times.) K = 1 is "sticking the landing" (Roeder et al.
    2017). Gradients of decoder and prior are those of L_K.
    """
    if not z.requires_grad:
        return log_w(z)
    factor: list[Tensor] = []
    path = z.view_as(z)  # a hook on the caller's own tensor would outlive this call
    path.register_hook(lambda g: g * factor[0])
    found = log_w(path)
    factor.append((1.0 - beta + beta * found.detach().softmax(1))[..., None])
    return found
