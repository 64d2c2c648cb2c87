"""Means and covariances of features that arrive in batches, from one process or many.

Two sets of n_a and n_b records, with means m_a, m_b and scatters S = sum (x - m)(x - m)^T, join to (Chan, Golub & LeVeque 1979, eq. 2.1)

    m = m_a + (n_b/n) (m_b - m_a)        S = S_a + S_b + (n_a n_b/n) (m_b - m_a)(m_b - m_a)^T        n = n_a + n_b

Every term is positive, so nothing cancels, wherever the mean lies. All sums are in float64: rounding in float32 would be about 1e-7 of the
largest eigenvalue, and a Fréchet distance takes the square roots of the smallest.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError

__all__ = ["Moments", "moments", "reduce_moments"]

ROWS = 1024
"""Records centred and multiplied at a time: the only copy of the features in float64."""
COLUMNS = 256
"""Width of the column blocks of a triangle: wide enough for full speed, narrow enough to skip nearly half of the product."""


class Moments:
    """Count, mean and covariance of all records seen.

    >>> seen = Moments().update(torch.tensor([[0.0, 0.0], [2.0, 4.0]])).update(torch.tensor([[1.0, 2.0]]))
    >>> seen.n, seen.mean.tolist(), seen.covariance.tolist()
    (3, [1.0, 2.0], [[1.0, 2.0], [2.0, 4.0]])
    """

    def __init__(self) -> None:
        self.n = 0
        self._mean = self._scatter = torch.zeros(0, dtype=torch.float64)  # the scatter's lower triangle counts, the rest is undefined

    @property
    def dim(self) -> int:
        """Width of the features; 0 before the first record."""
        return len(self._mean)

    @property
    def mean(self) -> Float[Tensor, "d"]:
        """Mean of the records, float64."""
        self._need(1, "A mean")
        return self._mean.clone()

    @property
    def scatter(self) -> Float[Tensor, "d d"]:
        """sum (x - mean)(x - mean)^T, float64."""
        whole = self._scatter
        for i in range(0, self.dim, COLUMNS):  # mirrored in place, in blocks: a whole transpose would miss the cache
            whole[:i, i : i + COLUMNS] = whole[i : i + COLUMNS, :i].T
            square = whole[i : i + COLUMNS, i : i + COLUMNS]
            square.copy_(square.tril() + square.tril(-1).T)
        return whole.clone()

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """The unbiased covariance, float64. Raises `DataError` for fewer than 2 records."""
        self._need(2, "A covariance")
        return self.scatter.div_(self.n - 1)

    def update(self, batch: Tensor) -> "Moments":
        """Add records, (b, d), of any dtype. Raises `DataError` for another width, another shape, or values that are not finite."""
        check_table(batch)
        self._start(batch.shape[1], batch.device)
        for block in batch.split(ROWS):
            if len(block):
                self._add(block)
        return self

    def _add(self, block: Tensor) -> None:
        b, n = len(block), self.n
        rows = torch.empty(b + 1, self.dim, dtype=torch.float64, device=block.device)
        rows[:b] = block
        mean = feature_mean(rows[:b], n)
        rows[:b] -= mean
        shift = mean - self._mean
        rows[b] = shift * (n * b / (n + b)) ** 0.5  # Chan's rank-one term, as one more record
        for i in range(0, self.dim, COLUMNS):
            j = min(i + COLUMNS, self.dim)
            self._scatter[i:j, :j].addmm_(rows[:, i:j].T, rows[:, :j])
        self._mean += shift * (b / (n + b))
        self.n += b

    def merge(self, other: "Moments") -> "Moments":
        """Add the records that `other` has seen; `other` stays as it is."""
        if other.n:
            self._start(other.dim, other._mean.device)
            n, shift = self.n + other.n, other._mean - self._mean
            self._scatter += other._scatter
            self._scatter.addr_(shift, shift, alpha=self.n * other.n / n)
            self._mean += shift * (other.n / n)
            self.n = n
        return self

    def without(self, part: "Moments") -> "Moments":
        """The moments of the records that are not in `part`, some of those seen: for leaving a group out without a second pass.

        This one subtracts, so keep `part` the smaller half. Raises `DataError` unless `part` is smaller than the whole.
        """
        if part.n >= self.n or part.dim != self.dim:
            raise DataError(f"Cannot leave {part.n} records of {part.dim} features out of {self.n} of {self.dim}.")
        rest = Moments()
        rest.n = self.n - part.n
        rest._mean = self._mean - (part._mean - self._mean) * (part.n / rest.n)
        shift = part._mean - rest._mean
        rest._scatter = (self._scatter - part._scatter).addr_(shift, shift, alpha=-part.n * rest.n / self.n)
        return rest

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything, as tensors: `n`, `mean` and `scatter`; save them with safetensors, or send them."""
        return {"n": torch.tensor(self.n), "mean": self._mean.clone(), "scatter": self.scatter}

    @classmethod
    def from_tensors(cls, state: Mapping[str, Tensor]) -> "Moments":
        """What `to_tensors` gave. Raises `DataError` when the shapes do not belong together."""
        found = cls()
        found.n, found._mean, found._scatter = int(state["n"]), state["mean"].double().clone(), state["scatter"].double().clone()
        if found._scatter.shape != (found.dim, found.dim):
            raise DataError(f"A mean of {found.dim} features cannot go with a scatter of shape {tuple(found._scatter.shape)}.")
        return found

    def _start(self, dim: int, device: torch.device) -> None:
        if not self.dim:
            self._mean = torch.zeros(dim, dtype=torch.float64, device=device)
            self._scatter = torch.zeros(dim, dim, dtype=torch.float64, device=device)
        same_width(dim, self.dim)

    def _need(self, n: int, what: str) -> None:
        if self.n < n:
            raise DataError(f"{what} needs at least {n} record{'s' * (n > 1)}, got {self.n}.")


def check_table(x: Tensor) -> None:
    """Raises `DataError` unless x is (records, features)."""
    if x.ndim != 2 or not x.shape[1]:
        raise DataError(f"Features must be a table (records, features), got shape {tuple(x.shape)}: flatten each record.")


def same_width(d1: int, d2: int) -> None:
    """Raises `DataError` unless both widths are one."""
    if d1 != d2:
        raise DataError(f"Records of {d1} and of {d2} features cannot be compared: compute both sets with one feature space.")


def feature_mean(x: Tensor, seen: int = 0) -> Tensor:
    """The mean in float64. Raises `DataError` that names the first record (`seen` came before) with a value that is not finite."""
    mean = x.mean(0, dtype=torch.float64)
    if not bool(mean.isfinite().all()):
        bad = x.isfinite().all(1).logical_not().nonzero()
        at = f"of record {seen + int(bad[0])} are not finite" if len(bad) else "overflow float64"
        raise DataError(f"Features {at}: leave such records out, or look for the cause where the features are computed.")
    return mean


def moments(x: Tensor) -> tuple[Float[Tensor, "d"], Float[Tensor, "d d"]]:
    """The mean and the unbiased covariance of (n, d) features, in float64. Raises `DataError` as `Moments` does."""
    seen = Moments().update(x)
    return seen.mean, seen.covariance


def reduce_moments(own: Moments) -> Moments:
    """The moments of the records of all processes, the same in each; `own` itself where `torch.distributed` is not running.

    Two sums go round: n m for the mean of all, then every process's scatter about that mean.
    """
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return own
    device = own._mean.device
    sizes = torch.tensor([own.n, own.dim], device=device)
    widths = sizes[1:].clone()
    distributed.all_reduce(sizes)
    distributed.all_reduce(widths, op=distributed.ReduceOp.MAX)
    every = Moments()
    every._start(int(widths), device)
    every.n = int(sizes[0])
    if own.n:
        every._mean += own._mean * (own.n / every.n)
    distributed.all_reduce(every._mean)
    if own.n:
        shift = own._mean - every._mean
        every._scatter += own._scatter.addr(shift, shift, alpha=own.n)
    distributed.all_reduce(every._scatter)
    return every
