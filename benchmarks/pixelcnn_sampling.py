"""Sampling 64 binary 28 x 28 images from a gated PixelCNN (7 layers, 64 channels): cached against one full pass per pixel.

The full pass is timed over a few pixels and scaled, as it takes minutes. Before timing, both samplers are run on a small image and
must give the same records from the same seed (that the logits are equal to 1e-5 is tested in tests/nn). Target: at least 300x.

    python benchmarks/pixelcnn_sampling.py [--threads 2]
"""

import argparse

import torch
from _timing import Result, interleave

from pushforward.data.spec import BINARY, DataSpec
from pushforward.models.exact.autoregressive import PixelCNN
from pushforward.rng import Rng

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--pixels", type=int, default=6, help="pixels really run by the full pass")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = PixelCNN(layers=7, channels=64).build(DataSpec("image", (1, 28, 28), (BINARY,)))
    x = torch.zeros(given.images, 1, 28, 28)

    @torch.inference_mode()
    def cached() -> None:
        model._sample(given.images, None, Rng.seeded(0))

    @torch.inference_mode()
    def full_passes() -> None:
        for _ in range(given.pixels):
            model._log_probs(x, None)

    small = PixelCNN(layers=7, channels=64).build(DataSpec("image", (1, 9, 7), (BINARY,)))
    with torch.inference_mode():
        a, b = (small._sample(16, None, Rng.seeded(3), incremental=incremental) for incremental in (True, False))
    assert torch.equal(a, b), "the cached sampler gives other images than the full pass"
    settings = {"images": given.images, "layers": 7, "channels": 64, "pixels run by the full pass": given.pixels}
    with Result("bench_pixelcnn_sampling", settings=settings) as result:
        rows = interleave({"cached": cached, "full passes": full_passes}, floor="cached", repeats=3, unit="call")
        scale = 784 / given.pixels
        result.add("64 images, cached", rows["cached"]["seconds"], unit="s", kind="median")
        result.add("64 images, a full pass per pixel (scaled)", scale * rows["full passes"]["seconds"], unit="s", kind="median")
        result.add("cached, times faster", scale * rows["full passes"]["ratio"], unit="x", kind="median of rounds", target=">= 300")
