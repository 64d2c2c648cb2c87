"""Sampling 43-dimensional records from autoregressive flows: each hidden unit once, against one full pass per variable.

Both samplers are run on the same codes first and must give the same records. The networks are as in density estimation on tables: 3 maps,
two hidden layers of 128.

    python benchmarks/flow_sampling.py [--threads 1] [--records 512]
"""

import argparse

import torch
from _timing import Result, interleave

from pushforward.data.spec import DataSpec
from pushforward.models.exact.dense import DenseFlow
from pushforward.models.exact.maf import MAF, AutoregressiveSplineFlow


def full_passes(model: DenseFlow, z: torch.Tensor) -> torch.Tensor:
    """The flow's inverse with the whole masked network evaluated anew for each entry."""
    for f in reversed(model.flow.layers):
        if not hasattr(f, "net"):
            z = f.inverse(z)[0]
            continue
        x = torch.zeros_like(z)
        for d in range(z.shape[1]):
            x[:, d : d + 1] = f._move(z[:, d : d + 1], f._params(x, None)[..., d : d + 1], inverse=True)[0]
        z = x
    return z


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--records", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    z = torch.randn(given.records, 43, generator=torch.Generator().manual_seed(0))
    with Result("bench_flow_sampling", settings=vars(given) | {"dimensions": 43, "layers": 3, "hidden": [128, 128]}) as result:
        for model in (MAF(layers=3), AutoregressiveSplineFlow(layers=3)):
            model.build(DataSpec("points", (43,)))
            with torch.inference_mode():
                difference = float((model.flow.inverse(z)[0] - full_passes(model, z)).abs().max())
                result.add(f"{model.name}: largest difference of the two samplers", difference, kind="measured", target="<= 1e-4")
                rows = interleave(
                    {
                        "each unit once": torch.inference_mode()(lambda m=model: m.flow.inverse(z)),
                        "a pass per entry": torch.inference_mode()(lambda m=model: full_passes(m, z)),
                    },
                    floor="each unit once",
                    repeats=given.repeats,
                    unit="call",
                )
            result.add(f"{model.name}: each unit once", rows["each unit once"]["seconds"], unit="s", kind="median")
            result.add(f"{model.name}: a pass per entry", rows["a pass per entry"]["seconds"], unit="s", kind="median")
            result.add(f"{model.name}: times faster", rows["a pass per entry"]["ratio"], unit="x", kind="median of rounds")
