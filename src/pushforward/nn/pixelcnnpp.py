r"""The network of PixelCNN++ (Salimans, Karpathy, Chen & Kingma 2017): whole pixels at several resolutions, with shortcuts across.

Two streams of convolutions that end at the pixel at hand, so that nothing is masked:

    u    row i sees rows < i of the image, every column within reach       kernels 2 x 3, above
    l    pixel (i, j) sees rows < i, and columns < j of its own row        kernels 2 x 2, above and left

of gated residual blocks, with e(x) = elu([x, -x]):

    block(x, a) = x + b sigmoid(g),    (b, g) = conv(e(conv(e(x)) + U e(a))) + V c

On the way down the resolution is halved after each level by convolutions of stride 2; on the way up it is doubled again, and each block
also takes, as its a, what the block opposite to it gave. l takes u as well. Level r of the streams has one value for each 2^r x 2^r pixels,
made from what is known at the first of them.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .moving import Moved, move

__all__ = ["PixelCNNPPNetwork"]


def both_signs(x: Tensor) -> Tensor:
    """elu([x, -x]) along axis 1."""
    return F.elu(torch.cat([x, -x], 1))


class Shifted(nn.Conv2d):
    """A convolution over this row and the one above: columns j-1 .. j+1 (`width` 3), or j-1 and j (`width` 2)."""

    def __init__(self, cin: int, cout: int, width: int, stride: int = 1):
        super().__init__(cin, cout, (2, width), stride)
        self.pad = (1, width - 2, 1, 0)

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(F.pad(input, self.pad), self.weight, self.bias, self.stride)


class Doubled(nn.ConvTranspose2d):
    """Twice the rows and columns: pixel (i, j) from (i // 2, j // 2) and, with `width` 3, an odd one from (i // 2, j // 2 + 1) too."""

    def __init__(self, channels: int, width: int):
        super().__init__(channels, channels, (2, width), 2, padding=(0, width - 2), output_padding=(0, width - 2))


class Block(nn.Module):
    """A gated residual block; `aux` is the width of a, 0 for none."""

    def __init__(self, channels: int, width: int, aux: int, condition_dim: int):
        super().__init__()
        self.conv1 = Shifted(2 * channels, channels, width)
        self.aux = nn.Conv2d(2 * aux, channels, 1) if aux else None
        self.conv2 = Shifted(2 * channels, 2 * channels, width)
        self.condition = nn.Linear(condition_dim, 2 * channels, bias=False) if condition_dim else None

    def forward(self, x: Tensor, a: Tensor | None, c: Tensor | None) -> Tensor:
        y = self.conv1(both_signs(x))
        if self.aux is not None and a is not None:
            y = y + self.aux(both_signs(a))
        y = self.conv2(both_signs(y))
        if self.condition is not None and c is not None:
            y = y + self.condition(c)[:, :, None, None]
        b, g = y.chunk(2, 1)
        return x + b * g.sigmoid()


class Stream(nn.Module):
    """The blocks of u (`width` 3) or l (`width` 2): `run` puts them together, for a whole image or for a part of it."""

    def __init__(self, width: int, channels: int, blocks: int, resolutions: int, condition_dim: int):
        super().__init__()
        u = 0 if width == 3 else channels
        self.width, R = width, resolutions
        self.down = nn.ModuleList([nn.ModuleList([Block(channels, width, u, condition_dim) for _ in range(blocks)]) for _ in range(R)])
        self.shrink = nn.ModuleList([Shifted(channels, channels, width, 2) for _ in range(R - 1)])
        counts = [blocks + (r < R - 1) for r in range(R)]
        self.up = nn.ModuleList([nn.ModuleList([Block(channels, width, u + channels, condition_dim) for _ in range(n)]) for n in counts])
        self.grow = nn.ModuleList([Doubled(channels, width) for _ in range(R - 1)])

    @staticmethod
    def _blocks(levels: nn.ModuleList, r: int) -> list[nn.Module]:
        return list(levels[r].children())

    def run(self, first: Tensor, others: list[Tensor | None], at: "Whole | Rows | Pixels") -> tuple[Tensor, list[Tensor | None]]:
        """(the output, what each block gave, in order); `others` are those of u. `at` evaluates the layers of a level where it is due."""
        v: Tensor | None = first
        skips: list[Tensor | None] = [first]
        given: list[Tensor | None] = []
        u, R = iter(others), len(self.down)
        for r in range(R):
            for block in self._blocks(self.down, r):
                v = at.block(block, v, [next(u, None)], r)
                given.append(v)
                skips.append(v)
            if r < R - 1:
                v = at.shrink(self.shrink[r], v, r)
                skips.append(v)
        v = skips.pop()
        for r in reversed(range(R)):
            for block in self._blocks(self.up, r):
                v = at.block(block, v, [next(u, None), skips.pop()], r)
                given.append(v)
            if r:
                v = at.grow(self.grow[r - 1], v, r)
        assert v is not None
        return v, given


class Whole:
    """Every position of the image at once."""

    def __init__(self, sizes: list[tuple[int, int]], c: Tensor | None):
        self.sizes, self.c = sizes, c

    def block(self, block: nn.Module, v: Tensor | None, a: list[Tensor | None], r: int) -> Tensor:
        there = [t for t in a if t is not None]
        return block(v, torch.cat(there, 1) if there else None, self.c)

    def shrink(self, conv: nn.Module, v: Tensor | None, r: int) -> Tensor:
        return conv(v)

    def grow(self, conv: nn.Module, v: Tensor | None, r: int) -> Tensor:
        H, W = self.sizes[r - 1]
        return conv(v)[:, :, :H, :W]


class Rows:
    """u, a row at a time: values are (n, features, 1, W_r), and each convolution keeps its last row. Level r is due every 2^r rows."""

    def __init__(self, sizes: list[tuple[int, int]], c: Tensor | None):
        self.sizes, self.c, self.i = sizes, c, 0
        self.last: dict[nn.Module, Tensor] = {}

    def _conv(self, conv: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(conv, Shifted)
        two = torch.cat([self.last.get(conv, torch.zeros_like(x)), x], 2)
        self.last[conv] = x
        return F.conv2d(F.pad(two, (1, 1)), conv.weight, conv.bias, conv.stride)

    def block(self, block: nn.Module, v: Tensor | None, a: list[Tensor | None], r: int) -> Tensor | None:
        return None if v is None else through(block, v, a, self.c, self._conv)

    def shrink(self, conv: nn.Module, v: Tensor | None, r: int) -> Tensor | None:
        if v is None:
            return None
        y = self._conv(conv, v)
        return y if self.i % 2 ** (r + 1) == 0 else None

    def grow(self, conv: nn.Module, v: Tensor | None, r: int) -> Tensor | None:
        assert isinstance(conv, Doubled)
        if v is not None:
            self.last[conv] = conv(v)[..., : self.sizes[r - 1][1]]  # both of the rows
        if self.i % 2 ** (r - 1):
            return None
        place = (self.i >> (r - 1)) & 1
        return self.last[conv][:, :, place : place + 1]


class Pixels:
    """l, a pixel at a time: values are (n, features, 1, 1), and each convolution keeps this row and the one above."""

    def __init__(self, sizes: list[tuple[int, int]], c: Tensor | None):
        self.sizes, self.c, self.i, self.j = sizes, c, 0, 0
        self.kept: dict[nn.Module, Tensor] = {}

    def _conv(self, conv: nn.Module, x: Tensor, r: int) -> Tensor:
        assert isinstance(conv, Shifted)
        n, cin = x.shape[:2]
        if conv not in self.kept:
            self.kept[conv] = x.new_zeros(2, self.sizes[r][1] + 1, n, cin)
        rows, J = self.kept[conv], self.j >> r
        if J == 0:
            rows[0] = rows[1]
            rows[1].zero_()
        rows[1, J + 1] = x[:, :, 0, 0]
        window = rows[:, J : J + 2].permute(2, 3, 0, 1).flatten(1)
        return torch.addmm(conv.bias, window, conv.weight.flatten(1).T)[:, :, None, None]  # pyright: ignore[reportArgumentType]

    def block(self, block: nn.Module, v: Tensor | None, a: list[Tensor | None], r: int) -> Tensor | None:
        if v is None:
            return None
        J = self.j >> r
        a = [t if t is None or t.shape[3] == 1 else t[..., J : J + 1] for t in a]  # of u, this pixel
        return through(block, v, a, self.c, lambda conv, x: self._conv(conv, x, r))

    def shrink(self, conv: nn.Module, v: Tensor | None, r: int) -> Tensor | None:
        if v is None:
            return None
        y = self._conv(conv, v, r)
        return y if self.i % 2 ** (r + 1) == 0 and self.j % 2 ** (r + 1) == 0 else None

    def grow(self, conv: nn.Module, v: Tensor | None, r: int) -> Tensor | None:
        assert isinstance(conv, Doubled)
        J = self.j >> r
        if v is not None:
            if conv not in self.kept:
                self.kept[conv] = v.new_zeros(self.sizes[r][1], *v.shape[:2], 2, 2)
            self.kept[conv][J] = conv(v)
        if (self.i | self.j) % 2 ** (r - 1):
            return None
        a, b = (self.i >> (r - 1)) & 1, (self.j >> (r - 1)) & 1
        return self.kept[conv][J, :, :, a : a + 1, b : b + 1]


def through(block: nn.Module, v: Tensor, a: list[Tensor | None], c: Tensor | None, conv: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
    """`Block.forward` with its convolutions evaluated by `conv`."""
    assert isinstance(block, Block)
    y = conv(block.conv1, both_signs(v))
    if block.aux is not None:
        y = y + block.aux(both_signs(torch.cat([t for t in a if t is not None], 1)))
    y = conv(block.conv2, both_signs(y))
    if block.condition is not None and c is not None:
        y = y + block.condition(c)[:, :, None, None]
    b, g = y.chunk(2, 1)
    return v + b * g.sigmoid()


class PixelCNNPPNetwork(nn.Module):
    """Parameters of each whole pixel from the pixels before it, in raster order.

    Parameters
    ----------
    image_channels
        C, the channels of the images.
    out
        P, the parameters of a pixel.
    channels
        Features of each stream.
    blocks
        Blocks of each stream at each resolution, down and again up.
    resolutions
        How many resolutions, each half of the one before.
    condition_dim
        Width of c, 0 for none. It enters every block.
    """

    def __init__(self, image_channels: int, out: int, channels: int, blocks: int, resolutions: int, condition_dim: int = 0):
        super().__init__()
        cin = image_channels + 1  # and one of ones, which says where the image ends
        self.resolutions = resolutions
        self.u_first = nn.Conv2d(cin, channels, (2, 3))
        self.l_above = nn.Conv2d(cin, channels, (1, 3))
        self.l_left = nn.Conv2d(cin, channels, (2, 1))
        self.u = Stream(3, channels, blocks, resolutions, condition_dim)
        self.l = Stream(2, channels, blocks, resolutions, condition_dim)
        self.head = nn.Conv2d(channels, out, 1)

    def _sizes(self, H: int, W: int) -> list[tuple[int, int]]:
        return [(-(-H // 2**r), -(-W // 2**r)) for r in range(self.resolutions)]

    def _padded(self, x: Tensor) -> Tensor:
        """The image and its channel of ones, with two rows of zeros above and a column at either side."""
        return F.pad(torch.cat([x, torch.ones_like(x[:, :1])], 1), (1, 1, 2, 0))

    def forward(self, x: Float[Tensor, "B C H W"], c: Float[Tensor, "B cond"] | None = None) -> Float[Tensor, "B H W P"]:
        at, xp = Whole(self._sizes(*x.shape[2:]), c), self._padded(x)
        _, others = self.u.run(self.u_first(xp[:, :, :-1]), [], at)
        first = self.l_above(xp[:, :, 1:-1]) + self.l_left(xp[:, :, 1:, :-2])
        v, _ = self.l.run(first, others, at)
        return self.head(F.elu(v)).permute(0, 2, 3, 1)

    @torch.no_grad()
    def incremental(
        self,
        n: int,
        size: tuple[int, int],
        c: Float[Tensor, "n cond"] | None,
        choose: Callable[[int, int, Tensor], Tensor],
        moved: Moved | None = None,
    ) -> None:
        """Visit pixel (i, j) in raster order: `choose(i, j, parameters (n, P))` returns the features (n, C) of the values it chose.
        `moved` says which rows go on in place of others (see `moving`).

        The parameters equal those of `forward` on the chosen features, up to rounding. Every activation is computed once: u a row at a
        time, l a pixel at a time.
        """
        H, W = size
        sizes = self._sizes(H, W)
        xp = self._padded(self.head.weight.new_zeros(n, self.u_first.in_channels - 1, H, W))
        rows, pixels = Rows(sizes, c), Pixels(sizes, c)
        for i in range(H):
            rows.i = pixels.i = i
            _, others = self.u.run(self.u_first(xp[:, :, i : i + 2]), [], rows)
            above = self.l_above(xp[:, :, i + 1 : i + 2])
            for j in range(W):
                pixels.j = j
                first = above[..., j : j + 1] + self.l_left(xp[:, :, i + 1 : i + 3, j : j + 1])
                v, _ = self.l.run(first, others, pixels)
                value, index = choose(i, j, self.head(F.elu(v))[:, :, 0, 0]), None if moved is None else moved()
                if index is not None:
                    # What a convolution keeps may be one of the others: each tensor once.
                    move(index, 0, *{id(t): t for t in (xp, above, *others, *rows.last.values()) if t is not None}.values())
                    for conv, t in pixels.kept.items():
                        move(index, 1 if isinstance(conv, Doubled) else 2, t)
                xp[:, :-1, i + 2, j + 1] = value
