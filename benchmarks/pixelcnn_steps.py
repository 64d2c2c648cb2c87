"""A training step of a gated PixelCNN (7 layers, 64 channels, 64 binary 28 x 28 images) beside its formulas as they are usually written.

The plain step pads with `F.pad`, adds and gates in passes of their own and leaves all gradients to autograd; channels last after the first
layer, as the library had it before. Both have the same weights and must give the same loss and gradients (float64, to 1e-10) before the
clock starts. No optimiser: its share is the same.

    python benchmarks/pixelcnn_steps.py [--threads 2] [--repeats 9]
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from _timing import Result, interleave
from torch import Tensor

from pushforward.nn.pixelcnn import GatedPixelCNN


def gate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


def plain(net: GatedPixelCNN, x: Tensor) -> Tensor:
    """What `net(x)` computes, for one image channel and no condition."""
    v = h = x
    for f in net.layers:
        a = f.vertical(F.pad(v, (f.r, f.r, f.r, 0)))
        above = f.across(F.pad(a, (0, 0, 1, 0))[:, :, :-1])
        left = F.pad(h, (f.r, 0, 0, 0))
        o = f.mix(gate(f.horizontal(left[..., :-1] if f.first else left) + above))
        v, h = a if f.last else gate(a), o if f.first else h + o
        v, h = v.contiguous(memory_format=torch.channels_last), h.contiguous(memory_format=torch.channels_last)
    y = net.head2(F.relu(net.head1(F.relu(h))))
    return y.unflatten(1, (1, net.out)).movedim(2, -1)


def step(net: GatedPixelCNN, forward: Callable[[Tensor], Tensor], x: Tensor, bf16: bool) -> Callable[[], Tensor]:
    """One call is a forward and a backward pass of the negative log-likelihood."""

    def once() -> Tensor:
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = forward(x)
        loss = F.binary_cross_entropy_with_logits(logits[..., 0].to(x.dtype), x)
        loss.backward()
        return loss.detach()

    return once


def same(net: GatedPixelCNN, x: Tensor) -> None:
    """Raises `AssertionError` when the two steps differ."""
    seen = []
    for forward in (net, lambda x: plain(net, x)):
        loss = step(net, forward, x, False)()
        seen.append([loss, *(p.grad for p in net.parameters())])
    for a, b in zip(*seen, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--layers", type=int, default=7)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    x = (torch.rand(given.images, 1, 28, 28) < 0.2).float()
    same(GatedPixelCNN(1, 1, 3, 8).double(), x[:2, :, :9, :7].double())
    net = GatedPixelCNN(1, 1, given.layers, given.channels)
    settings = {"images": given.images, "layers": given.layers, "channels": given.channels, "threads": given.threads}
    with Result("bench_pixelcnn_steps", settings=settings, seeds=[0]) as result:
        for name, bf16 in (("bf16", True), ("float32", False)):
            contenders = {"library": step(net, net, x, bf16), "plain": step(net, lambda x: plain(net, x), x, bf16)}
            rows = interleave(contenders, floor="plain", repeats=given.repeats)
            for who, row in rows.items():
                result.add(f"{who}, {name}", row["seconds"], unit="s", kind="median")
            result.add(f"library over plain, {name}", rows["library"]["ratio"], unit="x", kind="median of rounds")
