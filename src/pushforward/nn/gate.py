"""The elementwise half of a gated convolution in few passes over memory: tanh(a) sigmoid(b), the shift of a row, residuals, frames.

On a CPU these operations cost more of a PixelCNN's step than its convolutions when each is a pass of its own. Here the backward passes are
written out (two activations are kept, and nothing else), and results are written where the next convolution wants them: inside a frame of
zeros, channels last, so that no tensor is copied merely to pad it.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import Unsupported

__all__ = ["Frame", "framed", "gate", "gated", "residual"]


class Frame(NamedTuple):
    """Zeros around an image: rows above, columns to the left and to the right."""

    top: int = 0
    left: int = 0
    right: int = 0

    def inside(self, x: Tensor) -> Tensor:
        """The image within the frame, a view of x (B, C, H + top, W + left + right)."""
        return x[:, :, self.top :, self.left : x.shape[3] - self.right]

    def around(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """A new tensor, zero on the frame, and the view of its inside, of the shape of `like` and not written yet."""
        B, C, H, W = like.shape
        shape = (B, C, H + self.top, W + self.left + self.right)
        new = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
        new[:, :, : self.top] = 0
        new[..., : self.left] = 0
        new[..., new.shape[3] - self.right :] = 0
        return new, self.inside(new)


def gate(x: Tensor) -> Tensor:
    """tanh(a) sigmoid(b) of the two halves of axis 1."""
    a, b = x.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, above: Tensor | None, frame: Frame) -> Tensor:
        a, b = x.chunk(2, 1)
        if above is None:
            t, s = torch.tanh(a), torch.sigmoid(b)
        else:
            total = torch.empty_like(x, memory_format=torch.channels_last)
            total[:, :, :1] = x[:, :, :1]
            torch.add(x[:, :, 1:], above[:, :, :-1], out=total[:, :, 1:])
            a, b = total.chunk(2, 1)
            t, s = a.tanh_(), b.sigmoid_()
        new, inside = frame.around(a)
        torch.mul(t, s, out=inside)
        ctx.save_for_backward(t, s)
        ctx.frame, ctx.shifted = frame, above is not None
        return new

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        _once()
        t, s = ctx.saved_tensors
        g = ctx.frame.inside(grads[0])
        B, C, H, W = t.shape
        dx = torch.empty((B, 2 * C, H, W), dtype=t.dtype, device=t.device, memory_format=torch.channels_last)
        da, db = dx.chunk(2, 1)
        # d tanh = 1 - t^2, d sigmoid = s (1 - s).
        torch.ops.aten.tanh_backward.grad_input(g * s, t, grad_input=da)
        torch.ops.aten.sigmoid_backward.grad_input(g * t, s, grad_input=db)
        if not ctx.shifted:
            return dx, None, None
        above = torch.empty_like(dx)
        above[:, :, :-1] = dx[:, :, 1:]
        above[:, :, -1] = 0  # nothing is below the last row
        return dx, above, None


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, o: Tensor, had: Frame, frame: Frame) -> Tensor:
        new, inside = frame.around(o)
        torch.add(had.inside(h), o, out=inside)
        ctx.had, ctx.frame = had, frame
        return new

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        _once()
        (g,) = grads
        do = ctx.frame.inside(g)
        # What lies on h's frame is a constant, and whoever framed h drops its gradient.
        return g if ctx.had == ctx.frame else _put(do, ctx.had), do, None, None


class _Frame(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, frame: Frame) -> Tensor:
        ctx.frame = frame
        return _put(x, frame)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        _once()
        return ctx.frame.inside(grads[0]), None


def _once() -> None:
    """The activations are kept as numbers: a second derivative would be wrong, so none is given."""
    if torch.is_grad_enabled():
        raise Unsupported("Gated convolutions have no second derivatives. Leave create_graph=True out.")


def _put(x: Tensor, frame: Frame) -> Tensor:
    new, inside = frame.around(x)
    inside.copy_(x)
    return new


def gated(x: Tensor, above: Tensor | None = None, frame: Frame = Frame()) -> Tensor:
    """gate(x + shift(above)) in a frame of zeros, (B, 2C, H, W) -> (B, C, ...); shift moves `above` down by a row, a row of zeros first.

    Raises `Unsupported` for second derivatives.
    """
    return _Gate.apply(x, above, frame)  # pyright: ignore[reportReturnType]


def residual(h: Tensor, o: Tensor, had: Frame, frame: Frame) -> Tensor:
    """inside(h) + o in a frame of zeros, for h (B, C, ...) that `gated`, `framed` or `residual` put into the frame `had`.

    Raises `Unsupported` for second derivatives.
    """
    return _Residual.apply(h, o, had, frame)  # pyright: ignore[reportReturnType]


def framed(x: Tensor, frame: Frame) -> Tensor:
    """x in a frame of zeros, channels last. Raises `Unsupported` for second derivatives."""
    return _Frame.apply(x, frame)  # pyright: ignore[reportReturnType]
