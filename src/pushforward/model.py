"""The contract: what every deep generative model does, and says.

Four verbs are what a probabilistic model is for: **train** (`fit`), **sample**, **evaluate likelihood** (`log_prob`) and
**represent** (`encode`, `decode`). `Model` owns them: each public verb checks its inputs once (fittedness, shape, support, condition,
device) and calls one private hook that is only mathematics. A family writes its hooks and nothing else:

=================================  ====================================================================
hook                               meaning
=================================  ====================================================================
`_build(spec)`                     make the networks for records of this `DataSpec`
`_objectives()`                    the named losses that training minimises (`GradientModel` only)
`_prepare(data, seed)`             what the training records decide before the first step, such as sizes or initial values
                                   (`GradientModel` only, optional); a loaded model has it from its weights
`_estimate(data, training, run)`   fit by other means, such as EM (`ClosedFormModel` only)
`_sample(n, c, rng)`               n records, (n, *shape)
`_log_prob(x, c, rng)`             log p(x | c) in nats per record, (B,), with the family's `density` kind
`_encode(x, c)`                    codes, (B, d)
`_decode(z, c)`                    records at the given codes, (B, *shape)
`_posterior(x, c)`                 q(z | x) or p(z | x), a `torch.distributions.Distribution`
`_likelihood(z, c)`                p(x | z), a distribution
`_complete(x, known, c, rng)`      x with its entries outside the mask `known` drawn from p(unknown | known, c); one mask for all, of the
                                   shape of a record, or with `complete_by_row` one for each
`_joint()`                         p(z | c) and p(x | z, c) as an `ais.Joint`, which gives `evidence`; with a keyword `noise` where p(x | z)
                                   needs an observation noise
`code_spec`                        a `DataSpec` of the codes where they are no points of reals, such as symbols of a codebook (optional)
=================================  ====================================================================

In the hooks `x` is (B, *spec.shape) in the values of its support, `c` is the condition (B, spec.condition_dim) or None, and `rng` the only
source of randomness. A hook that a family does not write makes its verb raise `Unsupported`. Concrete classes are final: no hook
has two bodies.
"""

import inspect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from . import store
from .data import Data, Records, Schema, as_data
from .data.features import no_sequences
from .data.partial import partial, restored
from .data.spec import DataSpec
from .errors import ConfigError, DataError, NotFitted, Unsupported, nearest
from .memory import memory_kept
from .objective import Batch, Loss, Objective, Observer, Training
from .rng import Rng

if TYPE_CHECKING:
    from .alarms import Alarm

__all__ = ["Batch", "ClosedFormModel", "Density", "GradientModel", "Loss", "Model", "Objective", "Training"]

Density = Literal["exact", "bound", "estimate", "none"]
"""What `log_prob` returns: log p(x) itself, a lower bound on it, a stochastic estimate of it, or nothing at all."""

CHUNK = 512
"""Records that a verb passes to its hook at a time, so that memory stays bounded; a family may set its own `chunk`."""


class Model(nn.Module, ABC):
    """The contract that every family keeps. Not instantiated itself; see `pushforward.catalog()`.

    The constructor is the configuration: keyword hyperparameters, stored verbatim under their own names.
    """

    name: ClassVar[str] = ""
    """The name in the catalog, such as `"vae"`; empty for classes that are not offered."""
    density: Density = "none"
    """The kind of number `log_prob` returns. A family may set it per instance when the data decide (dequantised levels give a bound)."""
    estimator: str = ""
    """How `log_prob` comes to its number where `density` alone does not say: which bound, how many draws."""
    nfe: int = 1
    """Network evaluations, one after the other, that a sample needs."""
    complete_by_row: ClassVar[bool] = False
    """Whether `_complete` takes a mask for each record."""
    chunk: int = CHUNK
    # (torch keeps its own `training`, a bool, on instances; ours lives on the class and is read there.)
    training: ClassVar[Training] = Training()  # pyright: ignore[reportIncompatibleVariableOverride, reportAssignmentType]
    """The family's own training defaults; `fit` overrides them one by one."""
    takes_unlabelled: ClassVar[bool] = False
    """Whether it can be fitted with a condition when some records have no label (whose condition is then all zeros)."""
    takes_sequences: ClassVar[bool] = False
    """Whether it models records of kind `sequence`; those that do not refuse them."""
    unsupported: ClassVar[Mapping[str, str]] = {}
    """Verb -> why this family cannot offer it, and what to use instead."""

    spec: DataSpec | None = None
    schema: Schema | None = None
    alarms: "tuple[Alarm, ...]" = ()
    """What training still had to warn of when it ended; see `pushforward.alarms`."""

    # -- configuration ------------------------------------------------------------------------------------------------

    @classmethod
    def hyperparameters(cls) -> dict[str, inspect.Parameter]:
        """The constructor's parameters by name: the one source of configuration, flags and documentation."""
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        found = inspect.signature(cls.__init__).parameters.items()
        return {name: p for name, p in found if name != "self" and p.kind not in variadic}

    def config(self) -> dict[str, Any]:
        """The hyperparameters of this instance, as given. One named like a verb (`likelihood`) is stored as `likelihood_`."""
        return {name: getattr(self, f"{name}_" if hasattr(type(self), name) else name) for name in self.hyperparameters()}

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self.config().items() if not isinstance(v, nn.Module))

    @classmethod
    def accepts(cls, spec: DataSpec) -> str | None:
        """None when this family can model such records, else the reason it cannot and what can."""
        return no_sequences(cls.__name__) if spec.kind == "sequence" and not cls.takes_sequences else None

    @classmethod
    def training_for(cls, spec: DataSpec) -> Training:
        """The training defaults for such records; `training` unless a family has others for some kinds."""
        del spec
        return cls.training

    # -- building -----------------------------------------------------------------------------------------------------

    def build(self, spec: DataSpec, *, seed: int = 0) -> Self:
        """Make the networks for records of this `spec`, with initial weights drawn from `seed`.

        `fit` does this itself; call it to inspect an untrained model. The global random state is left as it was.
        Raises `Unsupported` when the family cannot model such records.
        """
        reason = type(self).accepts(spec)
        if reason:
            raise Unsupported(reason)
        self.spec = spec
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build(spec)
        self.to(torch.get_default_dtype())
        return self.eval()

    @abstractmethod
    def _build(self, spec: DataSpec) -> None: ...

    # -- train --------------------------------------------------------------------------------------------------------

    def fit(
        self,
        data: Any,
        *,
        condition: Any = None,
        out: str | Path | None = None,
        observers: Sequence[Observer] = (),
        **settings: Any,
    ) -> Self:
        """Train on `data` and return the model itself.

        Parameters
        ----------
        data
            A `Data` from `load_data`, or anything `load_data` takes.
        condition
            None to model p(x); True to model p(x | label) with the data's own labels; or an array of labels or vectors, one per record.
        out
            A new run folder to write (configuration, weights, history, checkpoints, a model card). None keeps everything in memory.
        observers
            Objects told of each step; see `pushforward.train.Observer`.
        **settings
            Fields of `pushforward.train.Training`: `steps`, `epochs` or `minutes`, `batch_size`, `lr`, `seed`, `ema`, `precision` ...

        Raises
        ------
        DataError
            The records do not fit the model, with the remedy.
        Diverged
            A loss became infinite or NaN; the last good checkpoint is kept.
        """
        type(self).training.override(**settings)  # a setting that is none is said before any record is read
        data = as_data(data, label=None if condition is None or condition is True else condition)
        conditional = condition is not None and condition is not False
        if conditional and data.schema.condition is None:
            raise DataError("condition=True needs labels, and this data set has none. Give load_data(..., label=...) or condition=ARRAY.")
        if conditional and data.train.unlabelled and not self.takes_unlabelled:
            raise DataError(
                f"{data.train.unlabelled} training records have no label, and {type(self).__name__} needs one for each to be conditional. "
                "Leave those records out (missing='drop'), or fit m2 or ssaae, which learn from a few labels."
            )
        self._adopt(data.schema, conditional)
        assert self.spec is not None
        training = self.training_for(self.spec).override(**settings)
        self.build(self.spec, seed=training.seed)
        run = None
        if out is not None and store.rank_zero():
            run = store.Run.create(out, self.describe(), data.describe(), training.to_json())
        return self.carry_on(data, training, run, observers)

    def carry_on(self, data: Data, training: Training, run: "store.Run | None", observers: Sequence[Observer] = ()) -> Self:
        """Train the built model on `data` from where `run` stopped (from the start without a checkpoint); `resume` calls this."""
        self.alarms = ()
        self._fit(data, training, run, observers)
        self.alarms = tuple(a for m in self.modules() if isinstance(m, Model) for a in m.alarms)  # those of its stages too
        self.eval()
        if run is not None and store.rank_zero():
            run.write_model(self.state_dict())
            self._portray(run)
        return self

    def _portray(self, run: "store.Run") -> None:
        """Leave a picture of samples and a model card in the run folder."""
        from .card import write_card  # matplotlib is imported when a picture is drawn, not before
        from .plots import draw_samples

        assert self.spec is not None
        if not self.supports("sample"):
            write_card(run, density=self.density, parameters=sum(p.numel() for p in self.parameters()))
            return
        hook, c, rng = self._hook("sample"), None, self._rng(None, 0)
        n = {"image": 64, "sequence": 16}.get(self.spec.kind, 1000)
        if self.spec.condition_dim:
            # As many of each class as fit; a vector condition gets unit vectors.
            c = torch.eye(self.spec.condition_dim, device=self.device, dtype=self.dtype)[torch.arange(n) * self.spec.condition_dim // n]
        with torch.no_grad():
            x = hook(n, c, rng).cpu()
        draw_samples(x, self.schema, self.spec, run.path / "samples.png")
        write_card(run, density=self.density, parameters=sum(p.numel() for p in self.parameters()))

    def _adopt(self, schema: Schema, conditional: bool) -> None:
        """Take the data's schema as our own; `conditional` says whether its labels reach the networks."""
        self.schema = schema
        dim = schema.condition.dim if conditional and schema.condition is not None else 0
        self.spec = schema.spec.with_condition(dim)

    @abstractmethod
    def _fit(self, data: Data, training: Training, run: "store.Run | None", observers: Sequence[Observer]) -> None: ...

    # -- sample -------------------------------------------------------------------------------------------------------

    @memory_kept(give_back=False)
    def sample(
        self, n: int = 1, *, condition: Any = None, generator: torch.Generator | None = None, seed: int | None = None, **options: Any
    ) -> Any:
        """Draw `n` new records, in the user's own form and units (DataFrame, uint8 images, array ...).

        `condition` is one label (or vector) for all records or one for each; required when the model is conditional.
        `generator` (a CPU `torch.Generator`) or `seed` fixes the result bit for bit. `options` go to the family's sampler.
        """
        spec = self._ready("sample")
        hook = self._hook("sample", options)
        if n < 1:
            raise DataError(f"sample needs n of at least 1, got {n}.")
        c = self._condition(condition, n)
        rng = self._rng(generator, seed)
        with torch.no_grad():
            parts = [hook(len(at), None if c is None else c[at], rng, **options) for at in torch.arange(n).split(self.chunk)]
        x = torch.cat(parts).cpu()
        assert x.shape == (n, *spec.shape), f"{type(self).__name__}._sample returned {tuple(x.shape)}"
        return x if self.schema is None else self.schema.decode(x)

    @memory_kept(give_back=False)
    def complete(
        self,
        records: Any,
        known: Any = None,
        *,
        condition: Any = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> Any:
        """The records with what is not known drawn from p(unknown | known), given the condition too where there is one.

        `known` is a mask in the form of one record, or one for each: what it leaves out is redrawn (for a table, the names of the known
        columns). None takes NaN, or missing values, for what is not known. `generator`, `seed` and `options` as in `sample`.
        How, and whether the draws are exact or so in the limit of many particles, chains or places, is the family's own to say.
        Raises `Unsupported` where it has no way for these entries.
        """
        spec = self._ready("complete")
        hook = self._hook("complete", options)
        x, given = partial(records, known, self.schema, spec, self.dtype)
        c, rng = self._condition(condition, len(x)), self._rng(generator, seed)
        x, given = x.to(self.device), given.to(self.device)
        if self.complete_by_row:
            groups = [(at, given[at]) for at in torch.arange(len(x), device=x.device).split(self.chunk)]
        else:  # records that miss the same entries are drawn together
            patterns, which = given.flatten(1).unique(dim=0, return_inverse=True)
            groups = [(at, p.view(spec.shape)) for i, p in enumerate(patterns) for at in (which == i).nonzero()[:, 0].split(self.chunk)]
        with torch.no_grad():
            for at, mask in groups:
                x[at] = hook(x[at], mask, None if c is None else c[at], rng, **options)
        x = x.cpu()
        return x if self.schema is None else restored(self.schema.decode(x), records, given.cpu(), self.schema)

    # -- evaluate likelihood ------------------------------------------------------------------------------------------

    @memory_kept(give_back=False)
    def log_prob(
        self, records: Any, *, condition: Any = None, generator: torch.Generator | None = None, seed: int | None = None, **options: Any
    ) -> Tensor:
        """log p(x), or log p(x | condition), in nats per record and in the data's own units, (n,).

        `self.density` says what kind of number it is: exact, a lower bound, or an estimate. Records on a finite set
        have log-probabilities; real ones have log-densities, and the data layer's scaling is accounted for by its log-determinant.
        """
        self._ready("log_prob")
        hook = self._hook("log_prob", options)
        log_det = self.schema.log_det if self.schema is not None else 0.0
        rng = self._rng(generator, 0 if seed is None and generator is None else seed)
        with torch.no_grad():
            return torch.cat([hook(x, c, rng, **options).cpu() for x, c in self._chunks(records, condition)]) + log_det

    # -- represent ----------------------------------------------------------------------------------------------------

    @property
    def code_spec(self) -> DataSpec | None:
        """What the codes of a built model are where they are no points of reals, such as a grid of categories; None where they are.

        Whoever models codes (`LatentPrior`) or walks between them (`explore`) asks for it. A flat code (n, d) holds its entries in order.
        """
        return None

    @memory_kept(give_back=False)
    def encode(self, records: Any, *, condition: Any = None) -> Tensor:
        """Codes of the records, (n, d)."""
        self._ready("encode")
        hook = self._hook("encode")
        with torch.no_grad():
            return torch.cat([hook(x, c).cpu() for x, c in self._chunks(records, condition)])

    @memory_kept(give_back=False)
    def decode(self, z: Any, *, condition: Any = None) -> Any:
        """Records at the codes `z` (n, d), in the user's own form."""
        self._ready("decode")
        hook = self._hook("decode")
        z = torch.as_tensor(z, dtype=self.dtype, device=self.device)
        if z.ndim != 2:
            raise DataError(f"decode needs codes of shape (n, d), got {tuple(z.shape)}.")
        c = self._condition(condition, len(z))
        with torch.no_grad():
            x = torch.cat([hook(z[at], None if c is None else c[at]) for at in torch.arange(len(z)).split(self.chunk)]).cpu()
        return x if self.schema is None else self.schema.decode(x)

    def reconstruct(self, records: Any, *, condition: Any = None) -> Any:
        """decode(encode(records)), in the user's own form."""
        return self.decode(self.encode(records, condition=condition), condition=condition)

    def posterior(self, records: Any, *, condition: Any = None) -> Distribution:
        """q(z | x) (or the exact p(z | x) where the family has it) for all records at once."""
        self._ready("posterior")
        hook = self._hook("posterior")
        x, c = self._inputs(records, condition)
        with torch.no_grad():
            return hook(x, c)

    def likelihood(self, z: Any, *, condition: Any = None) -> Distribution:
        """p(x | z) at the codes `z` (n, d)."""
        self._ready("likelihood")
        hook = self._hook("likelihood")
        z = torch.as_tensor(z, dtype=self.dtype, device=self.device)
        with torch.no_grad():
            return hook(z, self._condition(condition, len(z)))

    @classmethod
    def supports(cls, verb: str) -> bool:
        """Whether this family offers the verb: `sample`, `complete`, `log_prob`, `encode`, `decode`, `posterior` or `likelihood`."""
        return hasattr(cls, f"_{verb}") and verb not in cls.unsupported

    # -- save ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write a run folder (JSON and safetensors, nothing executable); `pushforward.load` reads it on any device.

        Raises `RunError` when the folder exists and is not empty.
        """
        self._ready("save")
        data = {} if self.schema is None else {"schema": self.schema.to_json()}
        run = store.Run.create(path, self.describe(), data, {})
        run.write_model(self.state_dict())
        return run.path

    def describe(self) -> dict[str, Any]:
        """The model as JSON: class name, hyperparameters, spec. Networks that were passed in are named, never pickled."""
        spec = None if self.spec is None else self.spec.to_json()
        return {"model": self.name, "config": {k: _plain(v) for k, v in self.config().items()}, "spec": spec}

    # -- shared checks ------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return next((t.device for t in itertools.chain(self.parameters(), self.buffers())), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        found = (t.dtype for t in itertools.chain(self.parameters(), self.buffers()) if t.is_floating_point())
        return next(found, torch.get_default_dtype())

    def _ready(self, verb: str) -> DataSpec:
        if self.spec is None:
            raise NotFitted(f"{type(self).__name__}.{verb} was called before fit. Call model.fit(data) or pushforward.load(run) first.")
        return self.spec

    def _hook(self, verb: str, options: Mapping[str, Any] = {}) -> Callable[..., Any]:
        hook = getattr(self, f"_{verb}", None)
        if hook is None or verb in self.unsupported:
            reason = self.unsupported.get(verb, f"this family defines no {verb}.")
            raise Unsupported(f"{type(self).__name__} has no {verb}: {reason}")
        known = [p.name for p in inspect.signature(hook).parameters.values() if p.kind is p.KEYWORD_ONLY]
        for name in options:
            if name not in known:
                raise ConfigError(f"{type(self).__name__}.{verb} has no option {name!r}.{nearest(name, known)}")
        return cast(Callable[..., Any], hook)

    def _rng(self, generator: torch.Generator | None, seed: int | None) -> Rng:
        if generator is None:
            generator = torch.Generator()
            generator.manual_seed(int(torch.randint(2**62, ()).item()) if seed is None else seed)
        elif generator.device.type != "cpu":
            raise ConfigError(
                "generator must be a CPU torch.Generator: noise is drawn there so that a seed means the same on every device."
            )
        return Rng(generator, self.device, self.dtype)

    def _condition(self, condition: Any, n: int) -> Tensor | None:
        assert self.spec is not None
        if self.spec.condition_dim == 0:
            if condition is not None:
                raise DataError(
                    f"{type(self).__name__} was fitted without a condition; fit(data, condition=True) makes a conditional model."
                )
            return None
        if condition is None:
            what = "" if self.schema is None or self.schema.condition is None else f" ({self.schema.condition})"
            raise DataError(f"{type(self).__name__} is conditional: give condition={what}, one for all records or one for each.")
        if self.schema is not None and self.schema.condition is not None:
            c = self.schema.condition.encode(condition, n)
        else:
            c = torch.as_tensor(condition, dtype=self.dtype)
            c = c.expand(n, -1) if c.ndim == 1 else c
        if c.shape != (n, self.spec.condition_dim):
            raise DataError(f"condition has shape {tuple(c.shape)}; {n} records need ({n}, {self.spec.condition_dim}).")
        return c.to(self.device, self.dtype)

    def _inputs(self, records: Any, condition: Any) -> tuple[Tensor, Tensor | None]:
        """Checked tensors on the model's device from records in any form."""
        assert self.spec is not None
        own = None
        if isinstance(records, Records) and self.schema is not None and not _alike(records.schema, self.schema):
            # Another data set's scaling, levels or classes are not ours: go through the user's own form.
            if self.spec.condition_dim and condition is None:
                condition = records.labels()
            records = records.records()
        if isinstance(records, Records):
            x = records.tensor(self.dtype)
            if self.spec.condition_dim and condition is None:
                own = records.vectors(self.dtype)
        elif self.schema is not None:
            x = self.schema.encode(records, self.dtype)
        else:
            x = torch.as_tensor(records)
        if tuple(x.shape[1:]) != self.spec.shape:
            raise DataError(f"Records have shape {tuple(x.shape[1:])}; this model was fitted to {self.spec.shape}.")
        c = self._condition(condition, len(x)) if own is None else own.to(self.device)
        return x.to(self.device, self.dtype), c

    def _chunks(self, records: Any, condition: Any) -> Iterator[tuple[Tensor, Tensor | None]]:
        x, c = self._inputs(records, condition)
        yield from zip(x.split(self.chunk), itertools.repeat(None) if c is None else c.split(self.chunk), strict=False)


class GradientModel(Model):
    """A model trained by stochastic gradients on named objectives, by the one loop in `train.py`."""

    @abstractmethod
    def _objectives(self) -> tuple[Objective, ...]:
        """The losses to minimise, in the order in which a round of training visits them."""

    @property
    def learning(self) -> bool:
        """Whether the loop is taking steps: torch's own flag, whose name our training defaults bear."""
        return bool(self.__dict__["training"])

    def _fit(self, data: Data, training: Training, run: "store.Run | None", observers: Sequence[Observer]) -> None:
        from .train import train  # Fabric is imported when training starts, not before

        assert self.spec is not None
        prepare = getattr(self, "_prepare", None)
        if prepare is not None:
            prepare(data, training.seed)
            self.to(self.dtype)
        train(self, self._objectives(), data, training, run=run, observers=observers, conditional=self.spec.condition_dim > 0)


class ClosedFormModel(Model):
    """A model fitted by other means (EM, a library's solver) behind the same verbs."""

    @abstractmethod
    def _estimate(self, data: Data, training: Training, run: "store.Run | None") -> None:
        """Fit the parameters to `data.train`."""

    def _fit(self, data: Data, training: Training, run: "store.Run | None", observers: Sequence[Observer]) -> None:
        self._estimate(data, training, run)


def _alike(a: Schema, b: Schema) -> bool:
    """Whether two schemas turn the same record into the same numbers."""
    return a is b or a.to_json() == b.to_json()


def _plain(value: Any) -> Any:
    """A hyperparameter as JSON: models nest, networks are named."""
    if isinstance(value, Model):
        return {"model": value.name, "config": {k: _plain(v) for k, v in value.config().items()}}
    if isinstance(value, nn.Module):
        return {"network": type(value).__qualname__}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
