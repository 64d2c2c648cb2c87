"""A fitted model and a data set, as every tool here looks at them: codes, decoded records, labels, distances."""

import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ais import standard_normal
from ..data import Data, Records
from ..errors import ConfigError, DataError, Unsupported
from ..metrics.copying import nearest
from ..model import CHUNK, Model
from ..rng import Rng
from ..spaces import FeatureSpace, pick, spaces

__all__ = ["Lens", "Shown"]


@dataclass(frozen=True)
class Shown:
    """Records in their owner's form, and as the values (n, *shape) that pictures and distances take.

    Decoded images are shown, and measured, as the mean of p(x | z) where the model has one: the most probable image, which `records` then
    holds, is harder than any record (black or white where a pixel is most probably either).
    """

    records: Any
    x: Tensor

    def __len__(self) -> int:
        return len(self.x)


class Lens:
    """What a fitted model makes of a data set. Everything is computed once, when it is first asked for.

    Parameters
    ----------
    model
        A fitted model. Its verbs are found by `Model.supports`, so any family will do.
    data
        The records to look at.
    n
        Training records to encode at most; half as many held-out ones.
    seed
        Fixes which records these are, and codes drawn from a prior.

    Raises
    ------
    NotFitted
        The model was not fitted.
    """

    def __init__(self, model: Model, data: Data, *, n: int = 2000, seed: int = 0):
        if n < 20:
            raise ConfigError(f"n must be at least 20 records, got {n}.")
        spec = model._ready("explore")
        self.model, self.data, self.n, self.seed = model, data, n, seed
        self.conditional = spec.condition_dim > 0
        self.train = pick(data.train, n, seed)
        held = next((part for part in (data.test, data.validation) if len(part)), None)
        self.held = pick(held if held is not None else data.train, max(10, n // 2), seed + 1)
        self.means = data.spec.kind == "image" and data.spec.supports == spec.supports and type(model).supports("likelihood")
        self.held_name = "training" if held is None else "held-out"

    # -- codes ----------------------------------------------------------------------------------------------------------

    def encode(self, records: Records) -> Tensor:
        """Codes (n, d) of records, under their own conditions. Raises `Unsupported` with the family's reason."""
        z = self.model.encode(records, condition=records.labels() if self.conditional else None)
        symbols = self.model.code_spec
        if not z.is_floating_point() or (symbols is not None and symbols.discrete):
            raise Unsupported(f"The codes of {self.name} are symbols of a codebook, and there is nothing between two symbols.")
        return z

    @cached_property
    def z(self) -> Tensor:
        """Codes of the training records, (n, d)."""
        return self.encode(self.train)

    @cached_property
    def z_held(self) -> Tensor:
        """Codes of the held-out records, (m, d)."""
        return self.encode(self.held)

    @cached_property
    def places(self) -> Tensor:
        """Codes at which the decoder may be looked at: those of the held-out records, or draws from the prior where there is no encode."""
        if type(self.model).supports("encode"):
            return self.z_held
        rng = Rng.seeded(self.seed, torch.zeros((), dtype=self.model.dtype, device=self.model.device))
        c = self._vectors(self.conditions(range(len(self.held))))
        with torch.no_grad():
            own = getattr(self.model, "noise_like", None)
            if own is not None:
                return own(len(self.held), rng).cpu()
            joint: Any = getattr(self.model, "_joint", None)
            if joint is None or any(p.default is p.empty for p in inspect.signature(joint).parameters.values()):
                self.model._hook("encode")  # says why there are no codes
                raise Unsupported(f"{self.name} has neither encode nor a prior over codes.")
            return joint().sample_prior(len(self.held), c, rng).cpu()

    def conditions(self, rows: Any) -> Any:
        """The conditions of these held-out records for a conditional model, else None."""
        return self.held.subset(torch.as_tensor(list(rows), dtype=torch.long)).labels() if self.conditional else None

    @cached_property
    def normal(self) -> bool:
        """Whether the model's prior over codes is N(0, I), as far as it says so; without a prior, whether codes look like it."""
        joint: Any = getattr(self.model, "_joint", None)
        z = self.places
        if joint is not None and not any(p.default is p.empty for p in inspect.signature(joint).parameters.values()):
            with torch.no_grad():
                at = z[:20].to(self.model.device, self.model.dtype)
                said = joint().log_prior(at, self._vectors(self.conditions(range(len(at))))).double().cpu()
            own = standard_normal(z[:20].double())
            return bool(torch.allclose(said, own, rtol=1e-3, atol=1e-3))
        mean, sd = z.double().mean(0), z.double().std(0)
        return bool((mean.abs() < 0.5).all() and (sd > 0.5).all() and (sd < 1.5).all())

    def _vectors(self, condition: Any) -> Tensor | None:
        return None if condition is None else self.model._condition(condition, len(condition))

    # -- records --------------------------------------------------------------------------------------------------------

    def decode(self, z: Tensor, condition: Any = None) -> Shown:
        """Records at the codes z (n, d); `condition` is one for each, for a conditional model."""
        records = self.model.decode(z, condition=condition)
        x = self._mean_image(z, condition)
        if x is None:
            x = records if self.model.schema is None else self.data.schema.encode(records)
        return Shown(records, x)

    def _mean_image(self, z: Tensor, condition: Any) -> Tensor | None:
        """E[x | z] of images in the data's own values, or None."""
        spec, model = self.data.spec, self.model
        if not self.means:
            return None
        c, z, out = self._vectors(condition), z.to(model.device, model.dtype), []
        try:
            with torch.no_grad():
                for at in torch.arange(len(z)).split(CHUNK):
                    out.append(model._hook("likelihood")(z[at], None if c is None else c[at]).mean.cpu())
        except NotImplementedError:  # no mean: categories
            self.means = False
            return None
        x = torch.cat(out)
        self.means = x.shape[1:] == spec.shape and bool(x.isfinite().all())
        return x.to(torch.get_default_dtype()) if self.means else None

    def mean(self, z: Tensor, c: Tensor | None) -> Tensor:
        """The decoder as a differentiable map from codes (n, d) to records as vectors (n, D), before any rounding to levels.

        It is the model's `outputs` (a generator's `generate`) where it has these, else the mean of p(x | z), else `_decode` itself where
        that has slopes.
        """
        outputs = getattr(self.model, "outputs", getattr(self.model, "generate", None))
        if callable(outputs):
            out: Any = outputs(z, c)
            return out.flatten(1)
        if type(self.model).supports("likelihood"):
            try:
                return self.model._hook("likelihood")(z, c).mean.flatten(1)
            except NotImplementedError:
                pass
        return self.model._hook("decode")(z, c).flatten(1)

    @property
    def name(self) -> str:
        return self.model.name or type(self.model).__name__

    @cached_property
    def held_shown(self) -> Shown:
        """The held-out records."""
        return Shown(self.held.records(), self.held.tensor())

    # -- labels ---------------------------------------------------------------------------------------------------------

    @property
    def classes(self) -> tuple[Any, ...]:
        """The classes of the data's labels; empty where there are none."""
        condition = self.data.schema.condition
        return tuple(condition.classes) if condition is not None and condition.kind == "classes" else ()

    def labels(self, records: Records) -> np.ndarray:
        """The class of each record as a position in `classes`, (n,). Raises `DataError` where the records have none."""
        if not self.classes or records.condition is None:
            raise DataError("The records have no classes. Give load_data(..., label=...) to see them by class.")
        return records.condition.cpu().numpy()

    # -- distances ------------------------------------------------------------------------------------------------------

    @cached_property
    def raw(self) -> FeatureSpace:
        """Records as vectors in which distances are taken: pixels, or standardised columns."""
        return spaces(self.data, which="raw")["raw"]

    @cached_property
    def _train_features(self) -> Tensor:
        return self.raw(pick(self.data.train, 10_000, self.seed).tensor())

    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distance (n,) from each record x to its nearest training record, and that record (n, *shape)."""
        distance, index = nearest(self.raw(x), self._train_features)
        return distance[:, 0], pick(self.data.train, 10_000, self.seed).tensor()[index[:, 0]]

    @cached_property
    def typical(self) -> float:
        """The median distance from a held-out record to its nearest training record; 0 where most are repeated."""
        if self.held_name == "training":
            distance = nearest(self.raw(self.held.tensor()), self._train_features, 2)[0][:, 1]
            return float(distance.median())
        return float(self.nearest(self.held.tensor())[0].median())
