"""Known answers: Gaussians, whose scores have laws in closed form."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..data.spec import DataSpec
from ..known import Known
from ..model import Model
from .result import Method
from .score import novelty

__all__ = ["gaussian", "known_answers", "shell_auroc"]


def gaussian(sd: Tensor) -> Model:
    """A flow that is N(0, diag sd^2) exactly, in float64."""
    from ..models.exact.nice import NICE

    model = NICE(layers=1, hidden=(1,)).build(DataSpec("points", (len(sd),))).double()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.flow.layers[0].log_scale.copy_(-sd.log())  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    return model


def shell_auroc(dim: int, s: float, entropy: float | None = None, batch: int = 1) -> float:
    """The exact AUROC of N(0, s^2 I) against N(0, I) in `dim` dimensions, scored under N(0, I) by likelihood or, given H, by typicality.

    -log p is |x|^2 / 2 and a constant, and |x|^2, summed over a batch, is s^2 chi^2 with n = batch dim degrees of freedom. So the
    likelihood has P(s^2 chi^2_n > chi'^2_n) = P(F_{n,n} > 1 / s^2), below 1/2 for s < 1, and typicality, with c the |x|^2 of H,
    E P(|chi'^2_n - c| < |s^2 chi^2_n - c|), here the mean over 20,000 midpoints of the quantiles of chi^2_n.
    """
    import numpy as np
    from scipy import stats

    n = batch * dim
    if entropy is None:
        return float(stats.f.sf(1 / s**2, n, n))
    c = batch * (2 * entropy - dim * math.log(2 * math.pi))
    off = np.abs(s**2 * stats.chi2.ppf((np.arange(20_000) + 0.5) / 20_000, n) - c)
    return float(np.mean(stats.chi2.cdf(c + off, n) - stats.chi2.cdf(c - off, n)))


def known_answers() -> Iterator[Known]:
    """Gaussians of another width, which a likelihood ranks the wrong way round: AUROC of each method in closed form."""
    dim, s, n, generator = 30, 0.8, 4000, torch.Generator().manual_seed(0)
    model = gaussian(torch.ones(dim, dtype=torch.float64))

    def draw(sd: float | Tensor) -> Tensor:
        return sd * torch.randn(n, dim, generator=generator, dtype=torch.float64)

    asked: tuple[tuple[Method, int], ...] = (("likelihood", 1), ("typicality", 1), ("typicality", 5), ("likelihood", 5))
    for method, batch in asked:
        found = novelty(model, draw(s), method=method, reference=draw(1.0), batch=batch)
        assert found.auroc is not None
        exact = shell_auroc(dim, s, None if found.entropy is None else found.entropy.value, batch)
        name = f"novelty by {method}, batches of {batch}: AUROC of N(0, 0.64 I) against N(0, I)"
        yield Known(name, exact, found.auroc.value, 4 * found.auroc.stderr + 1e-4, "4 standard errors; 1e-4 of the quadrature")
    # A background that differs in x_1 alone: the ratio is increasing in x_1^2, and P(s^2 chi^2_1 > chi'^2_1) = (2 / pi) arctan s.
    sd = torch.ones(dim, dtype=torch.float64)
    sd[0] = 3.0
    wide = torch.full((dim,), 0.5, dtype=torch.float64)
    wide[0] = s
    found = novelty(model, draw(wide), method="likelihood_ratio", background=gaussian(sd), reference=draw(1.0))
    assert found.auroc is not None
    exact = 2 / math.pi * math.atan(s)
    yield Known(
        "novelty by likelihood ratio: AUROC where only one entry tells",
        exact,
        found.auroc.value,
        4 * found.auroc.stderr,
        "4 standard errors",
    )
