"""The theory of adversarial training, run where every answer is known: in one dimension.

1. Pushforward: histograms of G(z) beside the analytic density, for monotone and folded maps, normal and uniform noise, a trained GAN.
2. The trained discriminator beside p / (p + q); the game's value -log 4 + 2 JSD and its minimum; J_G = -J_D along a minimax run.
3. Saturation: the generator's gradient under both losses, as the critic grows sure of itself.
4. Disjoint supports: two parallel lines, where JSD is log 2 whatever their distance and W1 is that distance.

W1 by a critic is in critic_w1.py. Half a minute on one core.

    python experiments/game_theory.py --out pictures
    python experiments/game_theory.py --steps 150 --records 20000    # a quick look; targets may be missed
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _critics import GRID, LIKE, Affine, critic_on_grid, drawn, gan, train
from _result import ROOT, Result
from torch import Tensor, nn

import pushforward as pf
from pushforward.data.spec import DataSpec
from pushforward.divergences import Grid, Isotropic, best_critic, branches, density, jensen_shannon, masses, optimal_discriminator, value
from pushforward.divergences.game import largest_error
from pushforward.games import Game
from pushforward.rng import Rng
from pushforward.train import Batch

NORMAL = torch.distributions.Normal(LIKE, 1.0)
P = Isotropic.of([0.6, 0.4], [[-1.5], [1.5]], [0.6, 0.8])
Q = Isotropic.of([1.0], [[0.3]], [1.5])
Curve = tuple[Tensor, Tensor]


# -- 1. pushforward -------------------------------------------------------------------------------------------------------


def pushforward(result: Result, records: int, steps: int) -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """L1 distance of a histogram of G(z) from the analytic masses, beside the most that chance allows."""
    normal = (lambda z: NORMAL.log_prob(z).exp(), NORMAL.cdf, lambda n, rng: rng.randn(n), (-8.0, 8.0))
    uniform = (lambda z: torch.full_like(z, 0.5), lambda z: (z + 1) / 2, lambda n, rng: 2 * rng.rand(n) - 1, (-1.0, 1.0))
    trained = pf.GAN(noise_dim=1, hidden=(32, 32), critic_hidden=(32, 32))
    data = P.sample(5000, Rng.seeded(7, LIKE)).numpy()
    trained.fit(data, steps=steps, seed=0, progress=False, alarms=False)
    network = trained.generator_net.double().eval()
    assert trained.schema is not None
    # Both players see standardised points; the schema turns them back.
    zero, one = (float(trained.schema.decode(torch.tensor([[t]]))[0, 0]) for t in (0.0, 1.0))
    maps: dict[str, tuple[Callable[[Tensor], Tensor], Any, tuple[float, float]]] = {
        "exp(z/2), z normal": (lambda z: (z / 2).exp(), normal, (0.0, 4.0)),
        "z + sin 3z, z normal": (lambda z: z + (3 * z).sin(), normal, (-3.5, 3.5)),
        "z^3 - z/2, z uniform": (lambda z: z**3 - z / 2, uniform, (-0.5, 0.5)),
        "a trained GAN, z normal": (lambda z: zero + (one - zero) * network(z[:, None])[:, 0], normal, (-4.0, 4.5)),
    }
    shown = {}
    for i, (name, (g, (prior, cdf, draw, (low, high)), (left, right))) in enumerate(maps.items()):
        edges = branches(g, low, high)
        ends = torch.linspace(left, right, 81, dtype=torch.float64)
        exact = masses(g, cdf, edges, ends)
        with torch.no_grad():
            y = g(draw(records, Rng.seeded(i, LIKE)))
        seen = torch.histogram(y, ends)[0] / records
        # Its mean is at most sum sqrt(p (1 - p) / n), and a sample moves it by at most 2 / n (McDiarmid): once in a million.
        bound = float((exact * (1 - exact) / records).sqrt().sum()) + math.sqrt(2 * math.log(1e6) / records)
        result.add(f"pushforward {name}: branches", len(edges) - 1, kind="exact")
        gap = float((seen - exact).abs().sum())
        result.add(
            f"pushforward {name}: L1 gap of {records:,} samples to the analytic masses", gap, kind="measured", target=f"<= {bound:.4f}"
        )
        at = torch.linspace(left, right, 1201, dtype=torch.float64)
        shown[name] = (ends, seen / ends.diff(), at, density(g, prior, edges, at))
    y = torch.linspace(-4.0, 4.5, 1201, dtype=torch.float64)
    result.add("pushforward of a trained GAN: total variation from p", _tv(shown["a trained GAN, z normal"], y), kind="exact")
    return shown


def _tv(curve: tuple[Tensor, ...], y: Tensor) -> float:
    return float(torch.trapezoid((curve[3] - P.log_prob(y[:, None]).exp()).abs(), y)) / 2


# -- 2. the discriminator and the value -----------------------------------------------------------------------------------


def discriminator(result: Result, steps: int) -> dict[str, Curve]:
    """An MLP critic trained by the GAN's own objective against q = N(0.3, 1.5^2), beside p / (p + q)."""
    log_p, log_q, x = P.log_prob(GRID.points), Q.log_prob(GRID.points), GRID.points[:, 0]
    model = gan("non-saturating", Affine(0.3, 1.5))
    train(model, drawn(P, 2048), steps)
    T = critic_on_grid(model)
    exact, off = optimal_discriminator(log_p, log_q), T.sigmoid() - optimal_discriminator(log_p, log_q)
    best = float(value(best_critic(log_p, log_q), log_p, log_q, GRID))
    gap = best - float(value(T, log_p, log_q, GRID))
    weight = log_p.exp() + log_q.exp()
    bulk, wider = x.abs() < 3, x.abs() < 3.5
    share = float(GRID.integrate(torch.where(bulk, weight, 0.0))) / 2
    result.add("trained D: share of records and samples in the bulk, |x| < 3", share, kind="exact")
    result.add("trained D: V(D*) - V(D), by quadrature", gap, unit="nats", kind="exact", target="<= 0.001")
    steepest = float((off.diff().abs() / x.diff())[wider[1:]].max())
    bound = largest_error(max(gap, 0.0), steepest, float(weight[wider].min()))
    result.add("trained D: most that |D - p/(p+q)| can be with that shortfall", bound, kind="bound")
    worst = float(off[bulk].abs().max())
    result.add("trained D: largest |D - p/(p+q)| in the bulk", worst, kind="exact", target=f"<= {bound:.4f}")
    result.add(
        "trained D: root mean square of D - p/(p+q)",
        math.sqrt(float(GRID.integrate(weight * off.square())) / 2),
        kind="exact",
        target=f"<= {math.sqrt(max(gap, 0) / 4):.4f}",
    )
    return {"p / (p + q)": (x, exact), "trained D": (x, T.sigmoid()), "p": (x, log_p.exp()), "q": (x, log_q.exp())}


def game_value(result: Result, records: int) -> Curve:
    """V(G, D*) against -log 4 + 2 JSD, the JSD by entropies; the objective itself on samples; and the minimum over q."""
    log_p = P.log_prob(GRID.points)
    entropy = lambda log: -GRID.integrate(torch.where(log > -700, log.exp() * log, 0.0))
    worst = 0.0
    for mean, sd in ((0.0, 1.0), (0.3, 1.5), (2.0, 0.4), (-3.0, 0.8), (5.0, 0.5)):
        log_q = Isotropic.of([1.0], [[mean]], [sd]).log_prob(GRID.points)
        log_m = torch.logaddexp(log_p, log_q) - math.log(2)
        jsd = float(entropy(log_m) - (entropy(log_p) + entropy(log_q)) / 2)
        worst = max(worst, abs(float(value(best_critic(log_p, log_q), log_p, log_q, GRID)) - (2 * jsd - math.log(4))))
    result.add("largest |V(G, D*) - (-log 4 + 2 JSD)| over five generators", worst, unit="nats", kind="exact", target="<= 1e-3")
    rng = Rng.seeded(1, LIKE)
    T = lambda v: P.log_prob(v) - Q.log_prob(v)
    loss = Game("minimax").critic(T(P.sample(records, rng)), T(Q.sample(records, rng)))
    exact = -math.log(4) + 2 * float(jensen_shannon(log_p, Q.log_prob(GRID.points), GRID))
    error = float(loss.std()) / math.sqrt(records)
    off = abs(-float(loss.mean()) - exact) / error
    result.add(
        f"the minimax objective at D* on {records:,} samples, off V(G, D*)", off, unit="standard errors", kind="measured", target="<= 4"
    )
    at = value(best_critic(log_p, log_p), log_p, log_p, GRID)
    result.add("|V(G, D*) + log 4| at q = p", abs(float(at) + math.log(4)), unit="nats", kind="exact", target="<= 1e-6")
    shifts = torch.linspace(-8, 8, 81, dtype=torch.float64)
    values = []
    for s in shifts.tolist():
        log_q = Isotropic(P.weights, P.means + s, P.sds).log_prob(GRID.points)
        values.append(float(value(best_critic(log_p, log_q), log_p, log_q, GRID)))
    result.add(
        "least V(G, D*) over generators that shift p, above -1.3863", min(values) + math.log(4), unit="nats", kind="exact", target="<= 1e-6"
    )
    return shifts, torch.tensor(values)


def zero_sum(result: Result, steps: int) -> None:
    """J_G + J_D along a run, batch by batch: with the term of the records that a minimax generator leaves out they cancel."""
    for loss in ("minimax", "non-saturating"):
        model = gan(loss, None, hidden=(16,), critic_hidden=(16,)).double()
        critic, generator = model._objectives()
        optimizers = [torch.optim.Adam(o.parameters(), lr=1e-3, betas=(0.0, 0.99)) for o in (critic, generator)]
        records, worst, slopes = drawn(P, 256), 0.0, 0.0
        weights = list(model.generator_net.parameters())
        for step in range(steps):
            x = records().double()
            batch = lambda seed=step, x=x: Batch(x, None, torch.arange(len(x)), Rng.seeded(seed, LIKE))
            j_d = critic.loss(batch()).per_record
            j_g = generator.loss(batch()).per_record
            of_records = model.game.rule.real(model.critic_net(x))
            worst = max(worst, float((j_d + j_g - of_records).mean().detach().abs()))
            # The critic's objective detaches the samples, so its slope by the generator is taken here from its terms.
            y = model._fake(batch())
            theirs = torch.autograd.grad(model.game.critic(model.critic_net(x), model.critic_net(y)).mean(), weights)
            ours = torch.autograd.grad(generator.loss(batch()).per_record.mean(), weights)
            slopes = max(slopes, max(float((a + b).abs().max()) for a, b in zip(theirs, ours, strict=True)))
            for optimizer, loss_of in zip(optimizers, (critic, generator), strict=True):
                optimizer.zero_grad()
                loss_of.loss(batch()).per_record.mean().backward()
                optimizer.step()
        target = "<= 1e-12" if loss == "minimax" else None
        result.add(
            f"{loss}: largest |J_G + J_D| over {steps} rounds, records' own term left out",
            worst,
            unit="nats",
            kind="measured",
            target=target,
        )
        result.add(f"{loss}: largest |dJ_G/dG + dJ_D/dG|", slopes, kind="measured", target=target)


# -- 3. saturation --------------------------------------------------------------------------------------------------------


def saturation(result: Result, steps: int) -> dict[str, Curve]:
    """The generator's gradient under both losses while the critic trains against a generator that stands still, as early in training."""
    far = Isotropic.of([1.0], [[4.0]], [0.5])
    model = gan("non-saturating", None, hidden=(32, 32), norm="none")
    y_rng = Rng.seeded(5)
    z = model.noise_like(2048, y_rng)
    weights = list(model.generator_net.parameters())
    log: dict[str, list[float]] = {"step": [], "D": [], "minimax": [], "non-saturating": [], "most": []}

    def look(step: int) -> None:
        if step % max(1, steps // 40):
            return
        log["step"].append(step)
        for loss in ("minimax", "non-saturating"):
            f = model.critic_net(model.generate(z, None))
            grad = torch.autograd.grad(Game(loss).generator(f, f.detach()).mean(), weights)
            log[loss].append(math.sqrt(sum(float(g.square().sum()) for g in grad)))
        d = f.detach().sigmoid()
        log["D"].append(float(d.mean()))
        log["most"].append(float(d.max()))

    train(model, drawn(far, 512), steps, lr=1e-3, look=look)
    D, minimax, other = (torch.tensor(log[k]) for k in ("D", "minimax", "non-saturating"))
    result.add("saturation: mean D(G(z)) when the critic begins", float(D[0]), kind="measured")
    result.add(f"saturation: mean D(G(z)) after {log['step'][-1]} critic steps", float(D[-1]), kind="measured", target="<= 0.001")
    end = log["step"][-1]
    result.add(
        "saturation: minimax gradient norm at the end over its largest",
        float(minimax[-1] / minimax.max()),
        kind="measured",
        target="<= 0.05",
    )
    result.add(
        "saturation: non-saturating gradient norm at the end over its largest",
        float(other[-1] / other.max()),
        kind="measured",
        target=">= 0.5",
    )
    # Per sample the two gradients are D and 1 - D times that of T, so that their norms' ratio is about D / (1 - D).
    ratio, odds = float(minimax[-1] / other[-1]), float(D[-1] / (1 - D[-1]))
    result.add(f"saturation: minimax norm over the non-saturating one after {end} steps", ratio, kind="measured", target="<= 0.001")
    result.add("saturation: that ratio over mean D / (1 - D)", ratio / odds, kind="measured", target="<= 2")
    step = torch.tensor(log["step"])
    return {"D(G(z))": (step, D), "minimax": (step, minimax), "non-saturating": (step, other)}


# -- 4. disjoint supports -------------------------------------------------------------------------------------------------


def parallel_lines(result: Result, steps: int) -> dict[str, Curve]:
    """p on the line {0} x [0, 1], q on {theta} x [0, 1] (Arjovsky et al. 2017, example 1), as 64 atoms each."""
    from scipy.optimize import linear_sum_assignment

    thetas = [-1.0, -0.5, -0.1, -0.01, 0.0, 0.01, 0.1, 0.5, 1.0]
    heights = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    off_jsd, off_w1, js, w1 = 0.0, 0.0, [], []
    for theta in thetas:
        a = torch.stack([torch.zeros_like(heights), heights], 1)
        b = torch.stack([torch.full_like(heights, theta), heights], 1)
        atoms, where = torch.unique(torch.cat([a, b]), dim=0, return_inverse=True)
        p, q = torch.zeros(len(atoms)).double(), torch.zeros(len(atoms)).double()
        p[where[:64]], q[where[64:]] = 1 / 64, 1 / 64
        js.append(float(jensen_shannon(p.log(), q.log(), Grid.atoms(atoms))))
        cost = torch.cdist(a, b).numpy()
        w1.append(float(cost[linear_sum_assignment(cost)].mean()))
        off_jsd = max(off_jsd, abs(js[-1] - (math.log(2) if theta else 0.0)))
        off_w1 = max(off_w1, abs(w1[-1] - abs(theta)))
    result.add("parallel lines: largest |JSD - log 2| over eight distances", off_jsd, unit="nats", kind="exact", target="<= 1e-12")
    result.add("parallel lines: largest |W1 - distance|", off_w1, kind="exact", target="<= 1e-12")
    model = pf.GAN(loss="minimax", relativistic=False, critic_hidden=(48, 48), fourier=0, r1=0.0, r2=0.0, noise_dim=1, generator=_Line(0.5))
    model.build(DataSpec("points", (2,)), seed=0)
    rng = Rng.seeded(2)
    train(model, lambda: torch.cat([torch.zeros(256, 1), rng.rand(256, 1)], 1), steps)
    x, y = torch.cat([torch.zeros(1000, 1), rng.rand(1000, 1)], 1), model.generate(model.noise_like(1000, rng), None)
    f = model.critic_net(y)
    v = -float(model.game.critic(model.critic_net(x), f).mean().detach())
    slope = torch.autograd.grad(model.game.generator(f, f).mean(), model.generator_net.theta)[0]
    wrong = int((model.critic_net(x) <= 0).sum()) + int((f >= 0).sum())
    result.add("parallel lines 0.5 apart: V of a trained critic, whose supremum is 0", v, unit="nats", kind="measured", target=">= -0.01")
    result.add("parallel lines 0.5 apart: mistakes of it, of 2,000", wrong, kind="measured", target="<= 0")
    result.add(
        "parallel lines 0.5 apart: slope of the minimax generator in theta (W1's is 1)", abs(float(slope)), kind="measured", target="<= 0.1"
    )
    return {"JSD": (torch.tensor(thetas), torch.tensor(js)), "W1": (torch.tensor(thetas), torch.tensor(w1))}


class _Line(nn.Module):
    """z -> (theta, (z + 1) / 2 folded into [0, 1])."""

    def __init__(self, theta: float):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta))

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([self.theta.expand_as(z), torch.special.ndtr(z)], 1)


# -- pictures -------------------------------------------------------------------------------------------------------------

INK, RED, GREEN, GREY = "#3b5b92", "#c44e52", "#55a868", "0.6"


def _axes(width: float, height: float, columns: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def draw(folder: Path, shown: dict[str, Any]) -> None:
    """Three pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = _axes(15, 3.2, len(shown["pushforward"]))
    for axis, (name, (ends, seen, y, q)) in zip(axes, shown["pushforward"].items(), strict=True):
        axis.stairs(seen.numpy(), ends.numpy(), fill=True, color="0.8", label="histogram of G(z)")
        axis.plot(y, q, color=RED, lw=1.3, label="change of variable")
        axis.set(title=name, xlabel="y = G(z)", ylim=(0, 1.25 * float(seen.max())))
    axes[-1].plot(y, P.log_prob(y[:, None]).exp(), "--", color=INK, lw=1.2, label="p of the data")
    axes[0].set_ylabel("density")
    for axis in (axes[0], axes[-1]):
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(folder / "pushforward.png", dpi=110)

    figure, (left, right) = _axes(11, 3.6, 2)
    curves = shown["discriminator"]
    for name, colour in (("p", "0.75"), ("q", "0.88")):
        left.fill_between(*curves[name], color=colour, label=name, alpha=0.8)
    left.plot(*curves["p / (p + q)"], color=INK, lw=2.5, label="p / (p + q)")
    left.plot(*curves["trained D"], "--", color=RED, lw=1.6, label="trained D")
    left.axvspan(-3, 3, ymin=0, ymax=0.012, color="0.2")
    left.set(xlim=(-5, 6), ylim=(0, 1.02), xlabel="x   (black bar: the bulk)", title="The trained discriminator")
    left.legend(frameon=False, fontsize=9)
    right.plot(*shown["value"], color=INK, lw=2)
    right.axhline(-math.log(4), color=GREY, ls=":")
    right.text(-8, -math.log(4) + 0.02, "-log 4", color="0.4")
    right.set(xlabel="shift of q from p", ylabel="V(G, D*) in nats", title="The game's value = -log 4 + 2 JSD")
    figure.savefig(folder / "game.png", dpi=110)

    figure, axes = _axes(14, 3.6, 3)
    T = torch.linspace(-8, 6, 281, dtype=torch.float64)
    for loss, colour in (("minimax", RED), ("non-saturating", INK)):
        axes[0].plot(T.sigmoid(), Game(loss).generator(T, T), color=colour, lw=2, label=loss)
    axes[0].set(xlabel="D(G(z))", ylabel="generator's cost", title="Flat where D is near 0", ylim=(-6, 8))
    axes[0].legend(frameon=False)
    curves = shown["saturation"]
    for loss, colour in (("minimax", RED), ("non-saturating", INK)):
        axes[1].semilogy(*curves[loss], color=colour, lw=2, label=f"gradient norm, {loss}")
    axes[1].semilogy(*curves["D(G(z))"], ":", color="0.3", lw=1.5, label="mean D(G(z))")
    axes[1].set(xlabel="steps of the critic, generator held still", title="Early in training")
    axes[1].legend(frameon=False, fontsize=8)
    axes[2].plot(*shown["lines"]["W1"], "o-", color=GREEN, lw=2, label="W1")
    theta, js = shown["lines"]["JSD"]
    axes[2].plot(theta[theta < 0], js[theta < 0], "o-", color=RED, lw=2, label="JSD")
    axes[2].plot(theta[theta > 0], js[theta > 0], "o-", color=RED, lw=2)
    axes[2].plot([0], [0], "o", color=RED)
    axes[2].axhline(math.log(2), color=GREY, ls=":", lw=1)
    axes[2].set(
        xticks=[-1, -0.5, 0, 0.5, 1], xlabel="distance of two parallel lines", title="Disjoint supports: JSD is log 2, W1 the distance"
    )
    axes[2].legend(frameon=False, fontsize=9)
    figure.savefig(folder / "saturation.png", dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the pictures; none are drawn without")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of the figures")
    parser.add_argument("--steps", type=int, default=400, help="of each critic")
    parser.add_argument("--gan-steps", type=int, default=1500, help="of the trained GAN in one dimension")
    parser.add_argument("--records", type=int, default=200_000, help="in each histogram")
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"steps": given.steps, "gan_steps": given.gan_steps, "records": given.records}
    with Result("game_theory", settings=settings, seeds=[0], folder=given.results) as result:
        shown: dict[str, Any] = {
            "discriminator": discriminator(result, given.steps),
            "value": game_value(result, given.records),
            "saturation": saturation(result, given.steps),
            "lines": parallel_lines(result, given.steps // 2),
            "pushforward": pushforward(result, given.records, given.gan_steps),
        }
        zero_sum(result, 100)
        if given.out:
            draw(given.out, shown)
