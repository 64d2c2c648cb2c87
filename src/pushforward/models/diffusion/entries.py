r"""What the support of a single entry knows: its values seen through noise, and its probability given what is expected of it.

Seen through noise, z = alpha f + sigma eps, an entry f with k values and prior p(f) proportional to exp(tilt f) has the posterior

    p(f | z) proportional to exp(tilt f - (z - alpha f)^2 / (2 sigma^2)),

which settles on one value as soon as sigma / alpha falls below the spacing. Smooth networks learn that staircase poorly, and pay for it
at all low noise levels; so it is given to them, and they supply the tilt: what the other entries say of this one.
"""

import math

import torch
from torch import Tensor, nn

from ...data.features import Features
from ...data.spec import Support

MOST_VALUES = 64
"""Finer lattices are left to the network: at T = 1000 their spacing is close to the least noise."""
BLOCK = 2**22
"""Numbers held at once while p(x | z_1) is normalised over all values of all entries."""


class Entries(nn.Module):
    """The entries of the features of a record: bounds, lattices and probabilities. No parameters.

    Parameters
    ----------
    features
        The features of the records.
    lattice
        False to leave all entries to the network.
    """

    limit: Tensor
    finite: Tensor
    on_lattice: Tensor
    values: Tensor
    absent: Tensor

    def __init__(self, features: Features, lattice: bool = True):
        super().__init__()
        self.features = features
        supports = [s for _, s, at in features.blocks for _ in range(at.start, at.stop)]
        # One-hot entries have the values -1 and 1; that exactly one of a block is 1 is left to the tilts.
        sizes = [0 if s.size is None else 2 if s.name == "categories" else s.size for s in supports]
        used = [k if lattice and k <= MOST_VALUES else 0 for k in sizes]
        self.k = max(used)
        rows = used[:1] if len(set(used)) == 1 else used  # one row serves all when they agree
        values, absent = torch.zeros(len(rows), self.k), torch.zeros(len(rows), self.k)
        for i, k in enumerate(rows):
            values[i, :k] = torch.linspace(-1, 1, k)
            absent[i, k:] = -math.inf if k else 0.0
        shape = (*(features.shape if len(rows) > 1 else [1] * len(features.shape)), self.k)
        for name, table in {
            "limit": torch.tensor([math.inf if s.name == "real" else 1.0 for s in supports]).reshape(features.shape),
            "finite": torch.tensor([float(k > 0) for k in sizes]).reshape(features.shape),
            "on_lattice": torch.tensor([k > 0 for k in used]).reshape(features.shape),
            "values": values.reshape(shape),
            "absent": absent.reshape(shape),
        }.items():
            self.register_buffer(name, table, persistent=False)

    def clamp(self, f: Tensor) -> Tensor:
        """Features within their bounds, (B, *features)."""
        return torch.minimum(torch.maximum(f, -self.limit), self.limit)

    def expected(self, output: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[f | z] of each entry by itself, with tilt = (1 + alpha / sigma) output, (B, *features).

        The factor is the scale on which z itself speaks: its exponent is alpha z f / sigma^2, of order alpha / sigma.
        """
        tilt = (1 + alpha / sigma) * output
        if self.k == 2:
            return torch.tanh(alpha * z / sigma.square() + tilt)
        offset = (z / alpha)[..., None] - self.values
        log_p = tilt[..., None] * self.values - ((alpha / sigma)[..., None] * offset).square() / 2 + self.absent
        return (log_p.softmax(-1) * self.values).sum(-1)

    def log_prob(self, x: Tensor, mean: Tensor, sd: float) -> Tensor:
        """log p(x | expected features), (B,): x (B, *shape), mean (B, *features), sd the noise of the features."""
        x, mean, shared = x.flatten(1), mean.flatten(1), self.features.spec.support
        if shared is not None and shared.name != "categories":
            return _entry(shared, x, mean, sd).sum(1)
        parts = [
            _category(x[:, i], mean[:, at], sd) if s.name == "categories" else _entry(s, x[:, i], mean[:, at.start], sd)
            for i, s, at in self.features.blocks
        ]
        return torch.stack(parts, 1).sum(1)


def _entry(support: Support, x: Tensor, mean: Tensor, sd: float) -> Tensor:
    """log p of single entries x (any shape) around their expected feature `mean`, not for categories."""
    if support.size is not None:
        return _level(support.size, x, mean, sd)
    f = x if support.name == "real" else 2 * x - 1
    log_p = -((f - mean) / sd).square() / 2 - math.log(sd * math.sqrt(2 * math.pi))
    if support.name == "unit":
        inside = torch.special.ndtr((1 - mean) / sd) - torch.special.ndtr((-1 - mean) / sd)
        log_p = log_p + math.log(2) - inside.log()  # df = 2 dx
    return log_p


def _level(k: int, x: Tensor, mean: Tensor, sd: float) -> Tensor:
    """log of exp(-(f(x) - mean)^2 / (2 sd^2)) normalised over the k levels."""
    values = torch.linspace(-1, 1, k, dtype=mean.dtype, device=mean.device)
    rows = max(1, BLOCK * len(x) // max(1, x.numel() * k))
    parts = [
        (-((values - m[..., None]) / sd).square() / 2).log_softmax(-1).gather(-1, v.long()[..., None]).squeeze(-1)
        for v, m in zip(x.split(rows), mean.split(rows), strict=True)
    ]
    return torch.cat(parts)


def _category(x: Tensor, mean: Tensor, sd: float) -> Tensor:
    """The same over one-hot features: |f(v) - mean|^2 = constant - 4 mean_v."""
    return (2 * mean / sd**2).log_softmax(-1).gather(-1, x.long()[:, None]).squeeze(-1)
