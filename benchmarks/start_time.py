"""Time to `pushforward --help` and to `import pushforward`, whole processes. Target: help under 0.3 s.

python benchmarks/start_time.py
"""

import subprocess
import sys
from pathlib import Path

from _timing import Result, interleave

if __name__ == "__main__":
    program = Path(sys.executable).parent / "pushforward"

    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)

    contenders = {
        "python -c pass": lambda: run(sys.executable, "-c", "pass"),
        "import pushforward": lambda: run(sys.executable, "-c", "import pushforward"),
        "pushforward --help": lambda: run(str(program), "--help"),
        "pushforward fit --help": lambda: run(str(program), "fit", "--help"),
        "import torch": lambda: run(sys.executable, "-c", "import torch"),
    }
    with Result("bench_start_time", settings={"repeats": 7}) as result:
        for name, row in interleave(contenders, floor="python -c pass", repeats=7, unit="call").items():
            target = "<= 0.3" if name == "pushforward --help" else None
            result.add(name, row["seconds"], unit="s", kind="median, whole process", target=target)
