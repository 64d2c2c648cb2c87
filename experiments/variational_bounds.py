"""Evidence, its bounds and their gradients, where every answer is known.

Linear-Gaussian models and a Gaussian mixture have their evidence and posterior in closed form; a model with two valleys has its by
quadrature. On 8x8 digits, free parameters for each record stand beside an encoder: bound, size, time, and the gap from train to test.

    python experiments/variational_bounds.py --epochs 100
"""

import argparse
import itertools
import math
import time
from typing import Any

import torch
from _result import Result
from torch import Tensor, nn

import pushforward as pf
from pushforward.data.spec import DataSpec
from pushforward.metrics import standard_error
from pushforward.model import Batch
from pushforward.models.latent.linear import Given, Nodes, answers, cubature, linear_gaussian, set_encoder
from pushforward.rng import Rng

LIKE = torch.zeros((), dtype=torch.float64)


def identities(result: Result) -> None:
    """Log p = ELBO + KL, and a bound that no q exceeds and that rises to log p with K."""
    for answer in answers():
        target = f"<= {answer.tolerance:g}" if answer.known == 0 else None
        result.add(answer.name, abs(answer.difference), unit="nats", kind="exact", target=target, holds=answer.holds)
    model, posterior = linear_gaussian(5, 2)
    rng = Rng.seeded(0, LIKE)
    x = 2 * rng.randn(4, 5)
    evidence = posterior(x)[0]
    above = 0
    for _ in range(1000):
        set_encoder(model, 2 * rng.randn(4, 2), torch.diag(rng.randn(2).exp()))
        losses = [model._elbo_loss(Batch(x, None, torch.arange(4), Nodes(e))).per_record for e in cubature(2)]
        above += int((-torch.stack(losses).mean(0) > evidence).sum())
    result.add("random q whose ELBO exceeds log p(x), of 4,000", above, kind="exact", target="<= 0")
    bounds = []
    for k in (1, 10, 100, 1000, 10_000):
        found = evidence[0] - model._log_prob(x[:1].expand(200, -1), None, rng, samples=k)
        bounds.append(float(found.mean()))
        result.add(f"log p(x) - L_K, K = {k}", bounds[-1], stderr=standard_error(found), unit="nats", kind="estimate")
    result.add("L_K rises at each step", int(all(a > b for a, b in itertools.pairwise(bounds))), kind="measured", target=">= 1")


def slopes(n: int, **hyper: Any) -> Tensor:
    """n independent estimates of the gradient of one record's bound by (mu, log sigma^2) of its q."""
    model, posterior = linear_gaussian(5, 2, **hyper)
    x = 2 * Rng.seeded(1, LIKE).randn(1, 5)
    _, mean, covariance = posterior(x)
    given = Given(torch.cat([mean + 0.2, covariance.diagonal().log()[None] + 0.5], 1).repeat(n, 1).requires_grad_())
    model.encoder = given
    loss = model._objectives()[0].loss(Batch(x.expand(n, -1), None, torch.arange(n), Rng.seeded(2, x)))
    return torch.autograd.grad(loss.per_record.sum(), given.params)[0]


def gradients(result: Result, n: int) -> None:
    """The three gradients: one mean, three variances."""
    for k in (1, 5, 50):
        found = {g: slopes(n, gradient=g, samples=k) for g in ("reparametrised", "score", "doubly")}
        base = found["reparametrised"]
        for name in ("score", "doubly"):
            other = found[name]
            off = (other.mean(0) - base.mean(0)).abs() / ((other.var(0) + base.var(0)) / n).sqrt()
            what = f"K = {k}, {name}: largest difference of the means from the reparametrised one"
            result.add(what, float(off.max()), unit="standard errors", kind="measured", target="<= 4.5")
            ratio = float(other.var(0).sum() / base.var(0).sum())
            result.add(f"K = {k}, {name}: variance against the reparametrised one", ratio, unit="times", kind="measured")
    model = pf.VAE(latent_dim=2, hidden=(8,)).build(DataSpec("points", (3,)))
    x = Rng.seeded(0).randn(16, 3)
    z = model.q_z.draw(model._params(x, None), 1, Rng.seeded(1)).z[:, 0].detach()
    encoder = list(model.networks["encoder"].parameters())
    cut = torch.autograd.grad(model.p_x.log_prob(model.p_x(z), x).sum(), encoder, allow_unused=True)
    size = sum(0.0 if s is None else float(s.abs().sum()) for s in cut)
    result.add("encoder's gradient of the reconstruction without reparametrisation", size, kind="exact", target="<= 0")


class Valley(nn.Module):
    """x = 2 (z_1^2 + z_2) + e; z_2 only where there is one."""

    def forward(self, z: Tensor) -> Tensor:
        return 2 * (z[:, :1].square() + z[:, 1:].sum(1, keepdim=True))


class Free(nn.Module):
    def __init__(self, start: Tensor):
        super().__init__()
        self.p = nn.Parameter(start)

    def forward(self, x: Tensor) -> Tensor:
        return self.p.expand(len(x), -1)


def richer(result: Result, steps: int) -> None:
    """What each family of q leaves of log p(x) on two valleys (1-d) and on two bent ones (2-d)."""
    for dim, at in ((1, 6.0), (2, 4.0)):
        grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
        given = torch.distributions.Normal(2 * grid.square(), math.sqrt(1.0 + 4 * (dim - 1))).log_prob(LIKE + at)
        evidence = float(torch.log(torch.trapezoid((torch.distributions.Normal(0.0, 1.0).log_prob(grid) + given).exp(), grid)))
        for posterior in ("diagonal", "full", "mixture", "planar", "iaf"):
            parts: dict[str, Any] = {"likelihood": "gaussian-unit", "decoder": Valley(), "encoder": nn.Identity()}
            model = pf.VAE(latent_dim=dim, posterior=posterior, components=2 * dim, flow_layers=6, **parts)
            model.build(DataSpec("points", (1,))).double()
            model.encoder = Free(model.q_z.initial(1).double() + 0.3 * Rng.seeded(3, LIKE).randn(1, model.q_z.n_params))
            optimizer, rng, x = torch.optim.Adam(model.parameters(), 5e-2), Rng.seeded(0, LIKE), LIKE.expand(64, 1) + at
            for step in range(steps):
                optimizer.param_groups[0]["lr"] = 5e-2 * (1 - step / steps)
                optimizer.zero_grad()
                model._elbo_loss(Batch(x, None, torch.arange(64), rng)).per_record.mean().backward()
                optimizer.step()
            with torch.no_grad():
                log_w = model._log_weights(x[:1], None, rng, 20_000, model._log_prior(rng))[0][0]
            gap = evidence - float(log_w.mean())
            target = "< 0.6" if (posterior, dim) in {("mixture", 1), ("iaf", 2)} else None  # a single Gaussian leaves log 2 = 0.69
            what = f"{dim}-d valleys, {posterior}: log p(x) - ELBO"
            result.add(what, gap, stderr=standard_error(log_w), unit="nats", kind="estimate", target=target)


def free(result: Result, epochs: float) -> None:
    """An encoder against parameters for each record, on digits."""
    data = pf.load_data("digits", binarize="threshold")
    config: dict[str, Any] = {"latent_dim": 8, "hidden": (64,)}
    training: dict[str, Any] = {"epochs": epochs, "batch_size": 64, "lr": 3e-3, "progress": False}
    bounds: dict[str, float] = {}
    amortised = pf.VAE(**config).fit(data, **training)
    refined = pf.VAE(**config, amortised=False, inference_steps=300).build(data.spec)
    refined.p_x.load_state_dict(amortised.p_x.state_dict())
    refined.schema = data.schema
    trained = pf.VAE(**config, amortised=False, inference_steps=300).fit(data, **training)
    for name, model in (("encoder", amortised), ("its decoder, q fitted to each record", refined), ("free parameters throughout", trained)):
        for split in ("train", "test"):
            records = getattr(data, split)[:500]
            start = time.perf_counter()
            found = model.log_prob(records, samples=1, seed=0)
            seconds = time.perf_counter() - start
            bounds[f"{name}, {split}"] = float(found.mean())
            result.add(f"{name}: ELBO on {split}", float(found.mean()), stderr=standard_error(found), unit="nats", kind="bound")
        result.add(f"{name}: a record's inference", 1000 * seconds / len(records), unit="ms", kind="measured")
        gap = bounds[f"{name}, train"] - bounds[f"{name}, test"]
        result.add(f"{name}: ELBO on train less on test", gap, unit="nats", kind="measured")
        if model is not refined:
            result.add(f"{name}: numbers learned for inference", model.inference_parameters, kind="exact")
    better = bounds["its decoder, q fitted to each record, train"] - bounds["encoder, train"]
    result.add("training records: fitted q less the encoder's, same decoder", better, unit="nats", kind="measured", target=">= 0")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=float, default=100.0)
    parser.add_argument("--estimates", type=int, default=20_000, help="gradient estimates of each kind")
    parser.add_argument("--steps", type=int, default=1000, help="of each fit of a richer posterior")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with Result("variational_bounds", settings=vars(given), seeds=[0]) as result:
        identities(result)
        gradients(result, given.estimates)
        richer(result, given.steps)
        free(result, given.epochs)
