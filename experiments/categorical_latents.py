"""Categorical latents where all codes can be enumerated: bounds against the evidence, and bias and variance of the gradient estimators.

A categorical VAE of 3 variables of 4 values is fitted to the 8 x 8 digits for a few hundred steps, enough that the posterior is neither
uniform nor sure. Then, at those weights, the gradient of the mean loss of some records by the encoder's last layer is known exactly, as a
sum over the 64 codes, and each estimator is drawn many times. Figures are relative to the exact gradient g*: bias |E g - g*| / |g*|, and
the standard deviation of one draw for each record, sqrt(E |g - E g|^2) / |g*|.

    python experiments/categorical_latents.py
"""

import argparse
import math

import torch
from _result import Result

import pushforward as pf
from pushforward.metrics import standard_error
from pushforward.models.latent.categorical_vae import CategoricalVAE, relaxed
from pushforward.objective import Batch
from pushforward.rng import Rng

CONFIG = {"variables": 3, "values": 4, "hidden": (64,)}


def gradient(model: CategoricalVAE, x: torch.Tensor, seed: int) -> torch.Tensor:
    """Of the mean loss, by the encoder's last layer, flat."""
    loss = model._loss(Batch(x, None, torch.arange(len(x)), Rng.seeded(seed, x))).per_record.mean()
    return torch.autograd.grad(loss, list(model.encoder_net.parameters())[-2])[0].flatten()


def like(model: CategoricalVAE, **changed) -> CategoricalVAE:
    """The same weights under another estimator."""
    assert model.spec is not None
    other = CategoricalVAE(**{**model.config(), **changed}).build(model.spec).double()
    other.load_state_dict(model.state_dict())
    return other


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=2000, help="draws of each estimator")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = pf.load_data("digits")
    settings = {"data": "digits", **CONFIG, "steps": given.steps, "repeats": given.repeats}
    with Result("categorical_latents", settings=settings, seeds=[given.seed]) as result:
        model = CategoricalVAE(**CONFIG, gradient="exact").fit(data, steps=given.steps, seed=given.seed, progress=False).double()
        x = data.test.tensor(torch.float64)[:50]
        uniform = -model.variables * math.log(model.values)

        # -- bounds against the evidence -------------------------------------------------------------------------------------
        with torch.no_grad():
            evidence = model._log_prob(x, None, Rng.seeded(0, x))
            z = model.every_code()
            logits = model._logits(x, None)
            log_q = model._log_q(logits, z.expand(len(x), -1, -1))
            log_x = model._log_x(model._one_hot(z, x).expand(len(x), -1, -1, -1), x, None)
            kl = (log_q.exp() * (log_q - log_x - uniform + evidence[:, None])).sum(1)
        elbo = -model._loss(Batch(x, None, torch.arange(len(x)), Rng.seeded(0, x))).per_record.detach()
        off = float((evidence - elbo - kl).abs().max())
        result.add("largest |log p - ELBO - KL(q || posterior)|", off, unit="nats", kind="exact", target="<= 1e-10")
        result.add("log p(x)", float(evidence.mean()), stderr=standard_error(evidence), unit="nats", kind="exact")
        result.add("log p(x) - ELBO", float((evidence - elbo).mean()), unit="nats", kind="exact", target=">= 0")
        with torch.no_grad():
            for k in (2, 8, 32, 128):
                many = x.repeat_interleave(50, 0)
                bound = model.importance_bound(many, None, Rng.seeded(k, x), k, lambda z, _: z.new_full((len(z),), uniform)).view(50, 50)
                gap = evidence[:, None] - bound
                error = float(bound.std(1).square().mean().sqrt()) / 50
                result.add(f"log p(x) - importance-weighted bound, K = {k}", float(gap.mean()), stderr=error, unit="nats", kind="estimate")

        # -- gradients ------------------------------------------------------------------------------------------------------
        exact = gradient(model, x, 0)
        size = float(exact.norm())
        cases = [(f"score, {s} draws", {"gradient": "score", "draws": s}) for s in (2, 8)]
        for t in (0.1, 0.3, 1.0, 3.0):
            for kind in ("gumbel", "straight-through"):
                cases.append((f"{kind}, temperature {t:g}", {"gradient": kind, "temperature": t, "final_temperature": t}))
        biases = dict[str, float]()
        for what, changed in cases:
            other = like(model, **changed)
            found = torch.stack([gradient(other, x, seed) for seed in range(given.repeats)])
            sd = float(found.var(0).sum().sqrt())
            # The squared distance of a mean of R draws to g* exceeds the squared bias by variance / R.
            apart = float((found.mean(0) - exact).square().sum())
            bias = math.sqrt(max(0.0, apart - sd**2 / given.repeats)) / size
            noise = sd / math.sqrt(given.repeats) / size
            biases[what] = bias
            target = f"<= {noise:.2g}" if what.startswith("score") else None
            result.add(f"{what}: bias of the gradient", bias, stderr=noise, unit="relative", kind="estimate", target=target)
            result.add(f"{what}: sd of a draw of the gradient", sd / size, unit="relative", kind="estimate")

        ratio = biases["gumbel, temperature 0.1"] / biases["gumbel, temperature 3"]
        result.add("gumbel: bias at temperature 0.1 over that at 3", ratio, kind="estimate", target="<= 0.25")

        # -- the Gumbel-max trick ---------------------------------------------------------------------------------------------
        n, logits = 100_000, torch.tensor([1.0, 0.0, -1.0, 0.5], dtype=torch.float64)
        seen = torch.bincount(relaxed(logits.expand(n, -1), 0.5, Rng.seeded(0, logits)).argmax(1), minlength=4).double()
        p = logits.softmax(0)
        chi2 = float(((seen - n * p).square() / (n * p)).sum())
        result.add(
            "argmax of Gumbel-softmax against softmax: chi^2, 3 degrees of freedom", chi2, kind="measured", target="<= 16.3 (p = 0.001)"
        )
