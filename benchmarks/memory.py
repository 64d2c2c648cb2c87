"""Peak memory of `fit` on an in-memory set: the data once, not twice.

Each size is fitted in a process of its own; the slope of peak memory over the size of the array says how many copies of the data
there are at the worst moment. The user's own array is one of them, the library's storage the other: the target is a slope of at most
2.1 over both, that is one copy of ours.

    python benchmarks/memory.py
"""

import resource
import subprocess
import sys

from _timing import Result

MEGABYTES = (100, 400)

if __name__ == "__main__":
    if len(sys.argv) > 1:
        import numpy as np

        import pushforward as pf

        images = np.random.default_rng(0).integers(0, 256, (int(sys.argv[1]) * 2**20 // 784, 28, 28), dtype=np.uint8)
        pf.VAE(network="mlp", hidden=(16,)).fit(pf.load_data(images), steps=50, progress=False, validate_every=10**9)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        sys.exit()
    peaks = [
        float(subprocess.run([sys.executable, __file__, str(m)], capture_output=True, text=True, check=True).stdout) for m in MEGABYTES
    ]
    slope = (peaks[1] - peaks[0]) / (MEGABYTES[1] - MEGABYTES[0])
    with Result("bench_memory", settings={"megabytes of images": list(MEGABYTES), "peak megabytes": peaks}) as result:
        result.add("copies of the data at the peak of fit, the user's array included", slope, unit="copies", kind="slope", target="<= 2.1")
