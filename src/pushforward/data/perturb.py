"""Records with some entries replaced by chance: what a background model is fitted to."""

import torch

from ..errors import ConfigError, Unsupported
from .records import Data, Records

__all__ = ["perturbed"]


def perturbed(data: Data, rate: float = 0.2, *, seed: int = 0) -> Data:
    """The data set with each entry of its training and validation records replaced, with probability `rate`, by one drawn by chance.

    A discrete entry is drawn uniformly from its values (Ren et al. 2019, section 3), one of [0, 1] uniformly, and a real one from the
    normal with the mean and variance of its column. What entries have in common is lost thereby, and what they are like on their own is
    kept in part: a model of such records is the background that `novelty(method="likelihood_ratio")` divides by. Test records stay.

    Parameters
    ----------
    data
        A data set, as `load_data` returns it.
    rate
        Share of entries to replace, above 0 and at most 1; Ren et al. choose among 0.1, 0.2 and 0.3.
    seed
        Fixes which entries are replaced, and by what.

    Raises
    ------
    ConfigError
        `rate` is out of range.
    Unsupported
        Records are sequences that may end: where they do cannot be changed entry by entry.
    """
    if not 0 < rate <= 1:
        raise ConfigError(f"rate must lie in (0, 1], got {rate}.")
    spec = data.spec
    if spec.ends:
        raise Unsupported("Sequences that may end cannot be changed entry by entry. Cut them into pieces of equal length first.")
    generator = torch.Generator().manual_seed(seed)
    columns = spec.columns
    size = torch.tensor([float(s.size or 1) for s in columns]).view(spec.shape)
    discrete = torch.tensor([s.discrete for s in columns]).view(spec.shape)
    real = torch.tensor([s.name == "real" for s in columns]).view(spec.shape)
    seen = data.train.tensor(torch.float64)
    mean, sd = seen.mean(0), seen.std(0, correction=0)

    def changed(records: Records) -> Records:
        if not len(records):
            return records
        x = records.tensor(torch.float64)
        at = torch.rand(x.shape, generator=generator) < rate
        u = torch.rand(x.shape, generator=generator, dtype=torch.float64)
        new = torch.where(discrete, (u * size).floor().minimum(size - 1), u)
        new = torch.where(real, mean + sd * torch.randn(x.shape, generator=generator, dtype=torch.float64), new)
        stored = torch.where(at, new, x).to(records.x.dtype)
        return Records(records.schema, stored, records.condition)  # a dynamic binarisation was drawn once by `tensor`

    note = f"{rate:g} of the entries of training and validation records were replaced by chance (seed {seed})"
    return Data(data.schema, changed(data.train), changed(data.validation), data.test, None, None, data.order, (*data.notes, note))
