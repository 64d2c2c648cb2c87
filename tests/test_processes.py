"""Every gradient-trained model of the catalog: two gloo processes give the losses of one with the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from pushforward.model import GradientModel
from pushforward.models import catalog

SCRIPT = Path(__file__).parent.parent / "experiments" / "two_processes.py"
# As derived in the experiment, which writes the figures of results/two_processes.json with the same code.
TOLERANCE = 1e-9


def test_two_processes_equal_one(tmp_path: Path) -> None:
    names = [n for n, m in catalog().items() if issubclass(m, GradientModel)]
    found = []
    for processes in (1, 2):
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
        command = [sys.executable, *launch, str(SCRIPT), str(processes), str(tmp_path / f"{processes}.json"), ",".join(names)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads((tmp_path / f"{processes}.json").read_text()))
    for name in names:
        one, two = (torch.tensor(f[name], dtype=torch.float64) for f in found)
        assert one.shape == two.shape
        assert float(((one - two).abs() / one.abs().clamp(min=1)).max()) <= TOLERANCE, name
