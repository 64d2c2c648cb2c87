"""A GAN training step on 3 x 32 x 32 images: convolutions in channels-last memory (the default) against contiguous ones.

python benchmarks/gan_channels_last.py
"""

from collections.abc import Callable

import numpy as np
import torch
from _timing import Result, interleave

import pushforward as pf

STEPS = 10


def fit(data: pf.Data, memory_format: torch.memory_format) -> Callable[[], None]:
    class Lay(pf.Observer):
        def on_start(self, loop) -> None:
            loop.model.to(memory_format=memory_format)

    def work() -> None:
        pf.GAN().fit(data, steps=STEPS, batch_size=64, progress=False, observers=[Lay()])

    return work


if __name__ == "__main__":
    images = np.random.default_rng(0).integers(0, 256, (2000, 32, 32, 3), dtype=np.uint8)
    data = pf.load_data(images)
    contenders = {"contiguous": fit(data, torch.contiguous_format), "channels last": fit(data, torch.channels_last)}
    with Result("bench_gan_channels_last", settings={"images": "3x32x32", "batch": 64, "steps a call": STEPS}) as result:
        rows = interleave(contenders, floor="contiguous", repeats=5, per=STEPS)
        result.add("GAN 3x32x32: channels last over contiguous", rows["channels last"]["ratio"], unit="x", kind="median of rounds")
