"""How well a score ranks one set above another."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError
from .estimate import Estimate
from .intervals import wilson

__all__ = ["auroc", "conformal_p"]


def auroc(known: Float[Tensor, "n"], novel: Float[Tensor, "m"]) -> Estimate:
    """The area under the ROC curve of a score that should be higher for `novel`: P(novel > known) + P(novel = known) / 2.

    1 where every novel score exceeds every known one, 1/2 where the score tells nothing, below 1/2 where it ranks them the wrong way
    round. Its variance is DeLong, DeLong and Clarke-Pearson's (1988),

        var = s^2(V_known) / n + s^2(V_novel) / m,    V a record's share of the other set on its right side,

    and the interval Wilson's, of a share with that variance: of A (1 - A) / var records. They count at most as 3 n m / (n + m + 1), the
    number that the variance of two equal laws amounts to, so that perfect separation in a sample is not taken for certainty.

    Infinite scores rank as such. Raises `DataError` for fewer than 2 scores in a set, or a score that is no number.
    """
    import numpy as np
    from scipy.stats import rankdata
    from sklearn.metrics import roc_auc_score

    a, b = (torch.as_tensor(s).detach().double().flatten().cpu().numpy() for s in (known, novel))
    n, m = len(a), len(b)
    if min(n, m) < 2:
        raise DataError(f"A ranking of two sets needs at least 2 scores of each, got {n} and {m}.")
    both = np.concatenate([a, b])
    if np.isnan(both).any():
        raise DataError(f"{int(np.isnan(both).sum())} of {n + m} scores are no numbers, so they have no rank. Leave those records out.")
    ranks = rankdata(both)  # ranks instead of scores: infinities have them too
    area = float(roc_auc_score(np.repeat([0, 1], [n, m]), ranks))
    of_known = 1 - (ranks[:n] - rankdata(a)) / m
    of_novel = (ranks[n:] - rankdata(b)) / n
    variance = float(of_known.var(ddof=1) / n + of_novel.var(ddof=1) / m)
    most = 3 * n * m / (n + m + 1)
    effective = min(most, area * (1 - area) / variance) if variance > 0 else most
    return Estimate(area, *wilson(area, effective), variance**0.5, min(n, m), "DeLong, Wilson")


def conformal_p(held_out: Float[Tensor, "n"], scores: Float[Tensor, "m"]) -> Float[Tensor, "m"]:
    """p = (1 + number of held-out scores >= s) / (n + 1), for each score s.

    Where a record comes from the law of the held-out ones (which had no part in making the score), P(p <= a) <= a for every a, whatever
    the score is (Vovk, Gammerman and Shafer 2005; Bates et al. 2023). The least it can be is 1 / (n + 1).
    """
    held = torch.as_tensor(held_out).double().flatten().sort().values
    below = torch.searchsorted(held, torch.as_tensor(scores).double().contiguous())  # how many are below s, so that ties count as >=
    return (1 + len(held) - below) / (len(held) + 1)
