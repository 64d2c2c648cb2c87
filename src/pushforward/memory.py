"""Memory that tensors free, kept for those to come.

glibc's allocator maps blocks above a threshold one by one and gives them back to the system as soon as they are free; it also gives back
the top of its heap. The threshold starts at 128 KB, a batch of 256 activations of a layer of 128 units, and follows what is freed up to
32 MB. Whoever computes the same thing again then pays for every page anew: zeroing and mapping it can take longer than the
arithmetic on it.
"""

import contextlib
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Iterator

__all__ = ["memory_kept"]

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Parameters of `mallopt`, from glibc's malloc.h."""
MOST_DYNAMIC = 2**25
"""The largest threshold that glibc comes to by itself, in bytes; it then trims the top of its heap from twice that."""


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is glibc and the user has not set its allocator."""
    if sys.platform != "linux" or any(key.startswith("MALLOC_") or key == "GLIBC_TUNABLES" for key in os.environ):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


class _Blocks:
    """How many `memory_kept` blocks are open in all threads: the first sets the allocator, the last sets it back."""

    lock = threading.Lock()
    open = 0


@contextlib.contextmanager
def memory_kept(*, give_back: bool = True) -> Iterator[None]:
    """Within the block no memory is given back to the system. After it what is free is, if `give_back`, or else as glibc sees fit.

    A process-wide setting of glibc's, for the time of the block; nothing happens with other C libraries, and where `MALLOC_...` or
    `GLIBC_TUNABLES` set the allocator. Also a decorator.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    with _Blocks.lock:
        _Blocks.open += 1
        if _Blocks.open == 1:
            libc.mallopt(MMAP_MAX, 0)
            libc.mallopt(TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        with _Blocks.lock:
            _Blocks.open -= 1
            if not _Blocks.open:
                for parameter, value in ((MMAP_MAX, 65_536), (MMAP_THRESHOLD, MOST_DYNAMIC), (TRIM_THRESHOLD, 2 * MOST_DYNAMIC)):
                    libc.mallopt(parameter, value)
                if give_back:
                    libc.malloc_trim(0)
