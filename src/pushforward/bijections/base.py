"""The abstract noun, and the composition of bijections."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Bijection", "Compose"]


class Bijection(nn.Module, ABC):
    """An invertible map of vectors. `forward` and `inverse` return the image and its log-determinant, (B, D) and (B,)."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "B D"], c: Float[Tensor, "B C"] | None = None) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def inverse(self, y: Float[Tensor, "B D"], c: Float[Tensor, "B C"] | None = None) -> tuple[Tensor, Tensor]: ...


class Compose(Bijection):
    """y = f_L(... f_2(f_1(x))): log-determinants add."""

    def __init__(self, layers: Sequence[Bijection]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(len(x))
        for f in self.layers:
            x, change = f(x, c)
            log_det = log_det + change
        return x, log_det

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = y.new_zeros(len(y))
        for f in reversed(self.layers):
            y, change = f.inverse(y, c)  # pyright: ignore[reportCallIssue]
            log_det = log_det + change
        return y, log_det
