"""Two gloo processes with half the batch each against one process with all of it: are the losses the same?

Every gradient-trained model of the catalog trains a few steps both ways in double precision, GANs with both players. The largest difference
of any loss is compared with rounding: the mean of two half-batch means and one whole-batch mean differ in the last bits, and training
carries that on.

    python experiments/two_processes.py
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from _result import Result

import pushforward as pf
from pushforward.data.builtin import digits as read_digits
from pushforward.model import GradientModel
from pushforward.objective import Observer

STEPS, BATCH = 8, 64
TOLERANCE = 1e-9
"""Relative, in double precision, which rounds at 1e-16. In a game the difference grows with every step (in single precision from 1e-7 to
1e-3 in 8 steps of the GAN, a factor 1e4); 1e-9 leaves a thousand times that, and is far below what a wrong mean or a missed gradient
would show."""


class Losses(Observer):
    """Keeps every objective's mean loss of every step, over all processes."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_step(self, loop) -> None:
        local = torch.stack([loss.per_record.double().mean() for _, loss in loop.window[-len(loop.objectives) :]])
        self.seen.append((loop.fabric.all_reduce(local, reduce_op="mean") if loop.fabric.world_size > 1 else local).tolist())


def worker(names: list[str], processes: int, out: Path) -> None:
    torch.set_num_threads(1)
    images, digits = read_digits()
    # Labels of two classes, which is what a CycleGAN translates between; the other models are fitted without a condition.
    data, found = pf.load_data(images, label=digits >= 5, support="levels(17)"), {}
    # Families of sequences read the rows of the images as words.
    words = pf.load_data(["".join("abcdefghijklmnopq"[int(v)] for v in image.flatten()[:24]) for image in images])
    extra = {"accelerator": "cpu", "devices": processes, "strategy": "ddp"} if processes > 1 else {}
    for name in names:
        watch = Losses()
        settings = {"steps": STEPS, "batch_size": BATCH, "progress": False, "validate_every": 10**6, "precision": "64"}
        family = pf.catalog()[name]
        family().fit(words if family.takes_sequences else data, observers=[watch], **settings, **extra)
        found[name] = watch.seen
    if int(os.environ.get("RANK", "0")) == 0:
        out.write_text(json.dumps(found))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        worker(sys.argv[3].split(","), int(sys.argv[1]), Path(sys.argv[2]))
        sys.exit()
    names = [n for n, m in pf.catalog().items() if issubclass(m, GradientModel)]
    with (
        Result("two_processes", settings={"steps": STEPS, "batch": BATCH, "data": "digits"}) as result,
        tempfile.TemporaryDirectory() as folder,
    ):
        found = []
        for processes in (1, 2):
            out = Path(folder) / f"{processes}.json"
            launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
            subprocess.run([sys.executable, *launch, __file__, str(processes), str(out), ",".join(names)], check=True)
            found.append(json.loads(out.read_text()))
        for name in names:
            one, two = (torch.tensor(f[name], dtype=torch.float64) for f in found)
            worst = float(((one - two).abs() / one.abs().clamp(min=1)).max())
            what = f"{name}: largest difference of a loss, {one.shape[1]} objective(s), float64"
            result.add(what, worst, unit="relative", kind="exact", target=f"<= {TOLERANCE:g}", holds=worst <= TOLERANCE)
