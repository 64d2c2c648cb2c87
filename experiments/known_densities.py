"""The ring and the grid, whose densities are known: how far is the spline flow, and what does the default GAN miss?

The flow is judged by KL(p || q) = E_p[log p(x) - log q(x)] over fresh records, in nats. The GAN has no density: its samples are counted
as in PacGAN (Lin et al. 2018): modes captured, share within 3 sd of a mode (98.9 % for the truth), reverse KL of the mode histogram to
uniform, and the spread inside the modes as a ratio to the true sd, which a shrunken fit betrays.

    python experiments/known_densities.py spline --minutes 5
    python experiments/known_densities.py gan --minutes 15
"""

import argparse

import torch
from _result import Result

import pushforward as pf
from pushforward.metrics import mode_statistics

RECORDS, FRESH = 100_000, 50_000


def judge_flow(result: Result, name: str, model: pf.Model, truth) -> None:
    x = truth.sample(FRESH, seed=1234)
    gap = truth.log_prob(x) - model.log_prob(x.float().numpy()).double()
    kl, stderr = float(gap.mean()), float(gap.std() / FRESH**0.5)
    result.add(f"{name}: KL from the exact density", kl, stderr=stderr, unit="nats", kind="exact", target="< 0.05", holds=kl < 0.05)


def judge_gan(result: Result, name: str, model: pf.Model, truth) -> None:
    x = torch.as_tensor(model.sample(FRESH, seed=1)).double()
    found, modes = mode_statistics(x, truth.means, truth.sd), len(truth.means)
    result.add(f"{name}: modes captured of {modes}", found.captured, unit="modes", kind="samples")
    result.add(f"{name}: share within 3 sd", 100 * found.share.value, stderr=100 * found.share.stderr, unit="%", kind="samples")
    result.add(f"{name}: reverse KL over modes", found.reverse_kl.value, stderr=found.reverse_kl.stderr, unit="nats", kind="samples")
    result.add(f"{name}: spread inside modes", found.spread.value, stderr=found.spread.stderr, unit="ratio to the true sd", kind="samples")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=["spline", "gan"])
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--only", choices=["ring", "grid"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = [given.only] if given.only else ["ring", "grid"]
    settings = {"minutes": given.minutes, "records": RECORDS, "fresh records": FRESH, "threads": 1}
    suffix = f"_{given.only}" if given.only else ""
    with Result(f"known_densities_{given.model}{suffix}", settings=settings) as result:
        for name in names:
            data = pf.load_data(name, n=RECORDS)
            model = pf.catalog()[given.model]().fit(data, minutes=given.minutes)
            (judge_flow if given.model == "spline" else judge_gan)(result, name, model, data.truth)
