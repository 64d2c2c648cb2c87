"""Memory kept between steps: what glibc is told, and that it does it."""

import os
import platform
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from toys import Gauss

from pushforward import memory
from pushforward.memory import MMAP_MAX, TRIM_THRESHOLD, memory_kept


class Libc:
    """What would have been asked of the C library."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def mallopt(self, parameter: int, value: int) -> None:
        self.asked.append((parameter, value))

    def malloc_trim(self, pad: int) -> None:
        self.asked.append((pad,))


@pytest.fixture
def libc(monkeypatch: pytest.MonkeyPatch) -> Libc:
    found = Libc()
    monkeypatch.setattr(memory, "_glibc", lambda: found)
    return found


@pytest.mark.skipif(sys.platform != "linux" or "glibc" not in platform.libc_ver(), reason="glibc's allocator")
def test_memory_that_a_step_frees_is_kept_and_given_back_after() -> None:
    """Blocks of 80 MB, which glibc maps one by one: their pages are paid for in every step; once they are kept, none is."""
    program = """
        import resource, torch
        from pathlib import Path
        from pushforward.memory import memory_kept

        def pages(steps):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(steps):
                blocks = [torch.ones(20 * 2**20) for _ in range(2)]
                del blocks
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        def resident():
            return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

        torch.set_num_threads(1)
        print(pages(1), resident())
        with memory_kept():
            pages(5)
            print(pages(3), resident())
        after = resident()
        print(pages(1), after)
        at = torch.empty(100 * 2**20).data_ptr()  # more than was ever freed
        low, high = next(line for line in Path("/proc/self/maps").read_text().splitlines() if "[heap]" in line).split()[0].split("-")
        print(int(low, 16) <= at < int(high, 16))
        """
    free = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    said = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=free, capture_output=True, text=True, check=True).stdout
    *figures, on_the_heap = said.splitlines()
    (paid, before), (paid_within, within), (paid_after, after) = ([float(v) for v in line.split()] for line in figures)
    assert on_the_heap == "False"  # large blocks are mapped again
    # All of a step's pages outside, however large the system makes them; within, what Python itself may ask for.
    assert paid_within < min(paid, paid_after) / 10
    assert within > before + 150  # MB: both blocks are there
    assert after < before + 50


def test_the_outermost_block_sets_the_allocator_and_sets_it_back(libc: Libc) -> None:
    with memory_kept():
        begun = list(libc.asked)
        assert begun == [(MMAP_MAX, 0), (TRIM_THRESHOLD, -1)]
        with memory_kept():  # an alarm that samples while a model is trained
            pass
        assert libc.asked == begun
    assert (MMAP_MAX, 65_536) in libc.asked
    assert libc.asked[-1] == (0,)


def test_an_error_sets_it_back_too(libc: Libc) -> None:
    with pytest.raises(ZeroDivisionError), memory_kept(give_back=False):
        raise ZeroDivisionError
    assert libc.asked[-1] == (TRIM_THRESHOLD, 2 * memory.MOST_DYNAMIC)


def test_training_gives_memory_back_and_a_verb_does_not(libc: Libc) -> None:
    x = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    model = Gauss().fit(x, steps=2, progress=False, batch_size=32)
    assert libc.asked.count((0,)) == 1
    for verb in (lambda: model.sample(3), lambda: model.log_prob(x)):
        before = len(libc.asked)
        verb()
        assert (MMAP_MAX, 0) in libc.asked[before:]
    assert libc.asked.count((0,)) == 1


def test_an_allocator_that_the_user_has_set_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert memory._glibc.__wrapped__() is None
