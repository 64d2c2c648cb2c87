"""What models that learn from a few labels share: which training records show theirs, and the verbs that name classes.

Labels take no part in the records here: a model is given its batches without them, and looks up the few that it may see.
"""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import one_hot

from ...ais import Joint, standard_normal
from ...data import Data, Schema
from ...data.records import Records
from ...data.spec import DataSpec
from ...decoders import Decoder
from ...errors import ConfigError, DataError
from ...model import CHUNK, Batch, Model
from ...rng import Rng

__all__ = ["Classifies", "Labelled", "count_classes", "labelled_rows"]


def labelled_rows(codes: Int[Tensor, " n"], labelled: int | None, seed: int) -> Int[Tensor, " k"]:
    """Positions of the records whose label is used, ascending: all that have one (code >= 0) for None, else `labelled` of them.

    Those are drawn in rounds, one record of each class a round, from a permutation fixed by `seed`: classes differ by one record at
    most, as long as each has records enough.
    """
    known = (codes >= 0).nonzero().flatten()
    if labelled is None:
        return known
    if labelled > len(known):
        raise DataError(f"labelled={labelled}, and only {len(known)} training records have a label. Give labelled={len(known)} or less.")
    order = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))]
    ranks = torch.empty(len(order), dtype=torch.int64)
    for k in codes[order].unique().tolist():
        mine = codes[order] == k
        ranks[mine] = torch.arange(int(mine.sum()))
    return order[ranks.argsort(stable=True)[:labelled]].sort().values


class Labelled:
    """The training records whose label a model may see."""

    def __init__(self, records: Records, hidden: Tensor):
        self.records, self._hidden = records, hidden
        self.share = float((~hidden).double().mean())
        """Of the training records, those whose label is seen."""

    @classmethod
    def of(cls, data: Data, labelled: int | None, seed: int) -> "Labelled | None":
        """Those of a data set, or None when there are none. Raises `DataError` when `labelled` are not to be had."""
        codes = data.train.condition
        if labelled == 0:
            return None
        condition = data.schema.condition
        if codes is None or condition is None:
            if labelled is None:
                return None
            raise DataError(f"labelled={labelled} needs labels, and this data set has none. Give load_data(..., label=...).")
        _classes_of(data.schema)
        if labelled is not None and labelled < condition.dim:
            raise ConfigError(
                f"labelled={labelled} leaves some of the {condition.dim} classes without a record. Give {condition.dim} or more."
            )
        rows = labelled_rows(codes.cpu(), labelled, seed)
        if not len(rows):
            return None
        hidden = torch.ones(len(codes), dtype=torch.bool)
        hidden[rows] = False
        # All of them are the training split itself; a few are copied, so that the model keeps no hold of the rest.
        return cls(data.train if len(rows) == len(codes) else data.train.subset(rows), hidden)

    def codes(self) -> Int[Tensor, " k"]:
        """The classes seen."""
        assert self.records.condition is not None
        return self.records.condition

    def draw(self, batch: Batch) -> tuple[Float[Tensor, "B *shape"], Float[Tensor, "B C"]]:
        """As many labelled records as the batch has, with one-hot labels: the batch itself when all are seen, else drawn at random."""
        if self.share == 1.0:
            condition = self.records.schema.condition
            assert condition is not None
            return batch.x, one_hot(self.codes()[batch.index], condition.dim).to(batch.x)
        at = batch.rng.randint(len(self.records), len(batch)).cpu()
        x, y = self.records.batch(at, batch.rng)
        assert y is not None
        return x, y

    def hidden(self, batch: Batch) -> Tensor:
        """(B,) whether the label of a record of the batch is not seen."""
        return self._hidden[batch.index].to(batch.x.device)


def _classes_of(schema: Schema | None) -> int | None:
    if schema is None or schema.condition is None:
        return None
    if schema.condition.kind != "classes":
        raise DataError(
            f"Labels {schema.condition.name!r} are numbers, not classes. Give text or whole numbers as labels: load_data(..., label=...)."
        )
    return schema.condition.dim


def count_classes(model: Model, spec: DataSpec, classes: int | None) -> int:
    """How many classes: those of the data's labels, or `classes` where there are none. Raises `DataError` when neither says."""
    found = _classes_of(model.schema) or spec.condition_dim
    if found and classes and classes != found:
        raise ConfigError(f"classes={classes}, and the labels name {found}. Leave classes out, or give {found}.")
    if not (found or classes):
        raise DataError(
            f"{type(model).__name__} needs labels, and this data set has none. Give load_data(..., label=...), or classes=K to look for K "
            "classes without any."
        )
    return found or classes or 0


class Classifies:
    """The verbs of a model of a class y ~ p(y), a style z ~ N(0, I) and a decoder p(x | y, z), which names the class of a record.

    Its hooks are `_predict_proba(x)` -> (B, C) and `_log_p_y()` -> (C,). A code is (y, z) side by side, (B, C + d); of a model fitted
    with a condition, whose class is given, z alone.
    """

    _C: int
    latent_dim: int
    p_x: Decoder

    @abstractmethod
    def _predict_proba(self, x: Tensor) -> Float[Tensor, "B C"]:
        """q(y | x)."""

    @abstractmethod
    def _log_p_y(self) -> Float[Tensor, " C"]:
        """log p(y) of every class."""

    def predict_proba(self, records: Any) -> Float[Tensor, "n C"]:
        """q(y | x), the probability of each class, (n, C), in the order of `model.schema.condition.classes`.

        Raises `NotFitted` before `fit`, and `DataError` for records that the model was not made for.
        """
        model: Any = self
        model._ready("predict")
        hook = model._hook("predict_proba")
        # A conditional model's condition is the label that is asked for here: any one passes its check, and none is looked at.
        unused = None if not model.spec.condition_dim else _any_condition(model)
        x, _ = model._inputs(records, unused)
        with torch.no_grad():
            return torch.cat([hook(part).cpu() for part in x.split(CHUNK)])

    def predict(self, records: Any) -> Any:
        """The most probable label of each record, in the user's own values (NumPy); codes (n,) where the data named none.

        Raises as `predict_proba` does.
        """
        codes = self.predict_proba(records).argmax(1)
        schema = getattr(self, "schema", None)
        return codes if schema is None or schema.condition is None else schema.condition.labels(codes)

    # -- the hooks that a class and a style decide ------------------------------------------------------------------------

    def _every_class(self, x: Tensor) -> Float[Tensor, "B C C"]:
        """All one-hot labels beside each record."""
        return torch.eye(self._C, dtype=x.dtype, device=x.device).expand(len(x), -1, -1)

    def _split(self, code: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """(z, y) of a code."""
        return (code, c) if c is not None else (code[:, self._C :], code[:, : self._C])

    def _sample(self, n: int, c: Tensor | None, rng: Rng, *, mode: bool = False, label: Any = None) -> Tensor:
        """Records of class `label` (all of that one; None draws classes from p(y)); with `mode` the most probable record at each code."""
        y = self._labels(n, c, label, rng)
        return self.p_x.emit(self.p_x(rng.randn(n, self.latent_dim), y), None if mode else rng)

    def _decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self.p_x.emit(self.p_x(*self._split(z, c)), None)

    def _likelihood(self, z: Tensor, c: Tensor | None) -> Distribution:
        return self.p_x.distribution(self.p_x(*self._split(z, c)))

    def _joint(self) -> Joint:
        """p(z) and p(x | z) = sum_y p(y) p(x | y, z), the classes summed in full."""

        def log_likelihood(x: Tensor, z: Tensor, c: Tensor | None) -> Tensor:
            if c is not None:
                return self.p_x.log_prob(self.p_x(z, c), x)
            each = [self.p_x.log_prob(self.p_x(z, y), x) for y in self._every_class(x).unbind(1)]
            return (torch.stack(each, 1) + self._log_p_y().to(x.dtype)).logsumexp(1)

        def simulate(z: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
            return self.p_x.emit(self.p_x(z, self._labels(len(z), c, None, rng)), rng)

        return Joint(lambda n, c, rng: rng.randn(n, self.latent_dim), standard_normal, simulate, log_likelihood)

    def _labels(self, n: int, c: Tensor | None, label: Any, rng: Rng) -> Float[Tensor, "n C"]:
        """One-hot labels of n records: the condition where there is one, else the label asked for, else draws from p(y)."""
        model: Any = self
        if c is not None:
            if label is not None:
                raise ConfigError("label= is for models fitted without a condition; this one takes condition=.")
            return c
        if label is None:
            codes = rng.categorical(self._log_p_y().to(rng.dtype).expand(n, -1))
            return one_hot(codes, self._C).to(rng.dtype)
        if model.schema is not None and model.schema.condition is not None:
            return model.schema.condition.encode(label, n).to(rng.device, rng.dtype)
        if not isinstance(label, int) or not 0 <= label < self._C:
            raise DataError(f"label={label!r} is none of the {self._C} classes: give a number from 0 to {self._C - 1}.")
        return one_hot(torch.full((n,), label, device=rng.device), self._C).to(rng.dtype)


def _any_condition(model: Model) -> Any:
    if model.schema is not None and model.schema.condition is not None:
        return model.schema.condition.classes[0]
    assert model.spec is not None
    return torch.zeros(model.spec.condition_dim)
