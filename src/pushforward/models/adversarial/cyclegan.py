r"""CycleGAN: two collections of records, without pairs, and the maps between them (Zhu, Park, Isola & Efros 2017).

With records a ~ p_A and b ~ p_B, generators G: A -> B and F: B -> A, and critics D_A and D_B, the generators minimise

    adv C(D_B(G(a)))  +  adv C(D_A(F(b)))                                                                  (equation 1)
    + lambda ( |F(G(a)) - a|_1  +  |G(F(b)) - b|_1 )                                                       (equation 2)
    + lambda mu ( |G(b) - b|_1  +  |F(a) - a|_1 )                                                          (section 5.2)

and D_B minimises A(D_B(b)) + B(D_B(y)), with y from a pool of past G(a) (section 4); D_A likewise. A, B and C are those of `games`, and
|.|_1 is the mean over the entries of a record. Nothing but the cycle says which b an a is led to: where a law has symmetries, so has
the answer.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...data import Data, Records
from ...data.features import Features, categorical_pixels
from ...data.join import coloured
from ...data.spec import DataSpec
from ...errors import ConfigError, DataError, nearest
from ...games import Game, LossName
from ...known import Known
from ...model import CHUNK, GradientModel
from ...nn import MLP, network_for
from ...nn.translator import PatchCritic, ResidualMLP, Translator
from ...train import Batch, Loss, Objective, Training
from .critic import Critic
from .pool import Pool

__all__ = ["CycleGAN"]

TWO = "Give load_data(A, data_b=B), --data A --data-b B, or labels of two classes."


class CycleGAN(GradientModel):
    """Translates between two collections of records of one form, learnt without pairs (`translate`).

    The two collections are one data set whose label says which of the two a record is from: `load_data(A, data_b=B)` makes it of two
    sources, and any data set with labels of two classes is one. The code of a record is its translation: `encode` leads to the other
    collection, `decode` back, and `reconstruct` goes round. Of a model fitted with `condition=True` these are told the collection
    that a record is from (and comes back to); of others it is the first.

    Parameters
    ----------
    loss
        The game of generators and critics; see `pushforward.games`.
    adversarial
        Weight of the game in the generators' loss. The least squares of `games` are halved and the paper's are not: 2 is the paper's.
    cycle
        lambda, the weight of the way there and back.
    identity
        mu, the weight of leaving records of the target alone, as a share of `cycle`; None takes 0.5 for images, as the authors' code, and
        0 for points and tables, whose two collections need not share a scale.
    pool
        Past translations that each critic may be shown; 0 shows it the latest. They are kept in checkpoints and in the saved model.
    network
        `mlp`, `conv` (residual blocks and critics of patches), or `auto`: convolutional for images of 16 pixels and more on each side.
    hidden
        Widths of the generators' hidden layers (MLP), which add to their input: training begins at the identity.
    critic_hidden
        Widths of the critics' hidden layers (MLP).
    fourier
        Random Fourier features that an MLP critic sees beside its record; None takes 32 for points and 0 otherwise.
    channels
        Channels at full size of the convolutional networks; Zhu et al. use 64.
    blocks
        Residual blocks of a convolutional generator; Zhu et al. use 6 for 128 x 128 images and 9 for 256 x 256.
    halvings
        Times that a convolutional generator halves its image.
    critic_layers
        Strided layers of a convolutional critic: 1, 2 or 3 judge patches of 16, 34 or 70 pixels. None goes by the image's size.
    norm
        Instance normalisation in the convolutional networks, or none.
    critic_lr
        The critics' own learning rate; None takes the training's.
    rounding
        `straight-through` rounds translations to records on their way to critics and back, so that nothing can be hidden between
        levels (Chu et al. 2017) and the cycle is that of what `translate` returns; `soft` leaves them as they are.

    Notes
    -----
    Every round pairs each record of the batch with one drawn from the other collection: both are seen alike, whatever their sizes.
    Points and the real columns of tables are standardised in each collection by itself. Terms reported: `adversarial`, `cycle` and
    `identity` of the generators, without their weights; of each critic `critic`, `D(real)` and `D(fake)`.

    Raises `DataError` for data without labels of two classes.

    References
    ----------
    Zhu, Park, Isola & Efros 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks".
    """

    name = "cyclegan"
    density = "none"
    training = Training(lr=2e-4, betas=(0.5, 0.999), batch_size=16, schedule="linear")
    unsupported = {
        "sample": "a CycleGAN leads records of one collection to the other and draws none of its own. Use translate(records, to=...), or "
        "fit a gan with condition=True.",
        "log_prob": "a CycleGAN defines no density. Fit a realnvp or a vae with condition=True, one density for each collection.",
        "posterior": "its maps are deterministic. Use encode(records), or translate(records, to=...).",
        "likelihood": "its maps are deterministic. Use decode(z), or translate(records, to=...).",
    }

    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        *,
        loss: LossName | str = "least-squares",
        adversarial: float = 2.0,
        cycle: float = 10.0,
        identity: float | None = None,
        pool: int = 50,
        network: Literal["auto", "mlp", "conv"] = "auto",
        hidden: tuple[int, ...] = (128, 128),
        critic_hidden: tuple[int, ...] = (128, 128),
        fourier: int | None = None,
        channels: int = 32,
        blocks: int = 3,
        halvings: int = 2,
        critic_layers: int | None = None,
        norm: Literal["instance", "none"] = "instance",
        critic_lr: float | None = None,
        rounding: Literal["straight-through", "soft"] = "straight-through",
    ):
        super().__init__()
        self.loss, self.adversarial, self.cycle, self.identity, self.pool = loss, adversarial, cycle, identity, pool
        self.network, self.hidden, self.critic_hidden, self.fourier = network, hidden, critic_hidden, fourier
        self.channels, self.blocks, self.halvings, self.critic_layers = channels, blocks, halvings, critic_layers
        self.norm, self.critic_lr, self.rounding = norm, critic_lr, rounding
        self._stock: tuple[Records, list[Tensor]] | None = None
        self._round: tuple[Tensor, list[Tensor], list[Tensor]] | None = None

    @classmethod
    def accepts(cls, spec: DataSpec) -> str | None:
        return categorical_pixels(cls.__name__, spec)

    def _build(self, spec: DataSpec) -> None:
        self.game = Game(self.loss)
        if self.pool < 0 or min(self.adversarial, self.cycle, self.identity or 0.0) < 0:
            raise ConfigError("adversarial, cycle, identity and pool must be at least 0.")
        self._classes()
        self._features = features = Features(spec)
        shape, image = features.shape, spec.kind == "image"
        self._mu = (0.5 if image else 0.0) if self.identity is None else self.identity
        if network_for(shape, self.network) == "conv":
            generator = lambda: Translator(shape, self.channels, self.blocks, self.halvings, self.norm)
            critic = lambda: PatchCritic(shape, self.channels, self.critic_layers, self.norm)
        else:
            waves = (32 if spec.kind == "points" else 0) if self.fourier is None else self.fourier
            generator = lambda: ResidualMLP(MLP(features.dim, features.dim, self.hidden, 0, "leaky_relu"))
            critic = lambda: Critic(
                shape,
                network="mlp",
                hidden=self.critic_hidden,
                channels=self.channels,
                fourier=waves,
                condition_dim=0,
                conditioning="input",
            )
        # Entry 0 of each list leads to, judges or pools the first collection; entry 1 the second.
        self.generators = nn.ModuleList(generator() for _ in range(2))
        self.critics = nn.ModuleList(critic() for _ in range(2))
        self.pools = nn.ModuleList(Pool(self.pool, shape) for _ in range(2))
        self.register_buffer("centre", torch.zeros(2, 1 if image else features.dim))
        self.register_buffer("spread", torch.ones(2, 1 if image else features.dim))

    def _classes(self) -> tuple[Any, Any]:
        """The labels of the two collections; 0 and 1 for a model that was built without data."""
        if self.schema is None:
            return 0, 1
        condition = self.schema.condition
        if condition is None:
            raise DataError(f"A CycleGAN translates between two collections, and these records have no label that says which. {TWO}")
        if condition.kind != "classes" or condition.dim != 2:
            what = f"{condition.dim} classes" if condition.kind == "classes" else "numbers"
            raise DataError(f"A CycleGAN translates between two collections; the labels {condition.name!r} are {what}. {TWO}")
        return condition.classes[0], condition.classes[1]

    @torch.no_grad()
    def _prepare(self, data: Data, seed: int) -> None:
        del seed
        codes = data.train.condition
        assert codes is not None
        if data.train.unlabelled:
            raise DataError(f"{data.train.unlabelled} training records do not say which collection they are from. Leave them out. {TWO}")
        rows = [(codes == side).nonzero().flatten() for side in range(2)]
        for side, which in enumerate(rows):
            if not len(which):
                raise DataError(f"No training record is from the collection {self._classes()[side]!r}. Give more of them.")
        self._stock = data.train, rows
        if self._features.spec.kind != "image":
            real = torch.zeros(self._features.dim, dtype=torch.bool)
            for _, support, at in self._features.blocks:
                real[at] = support.name == "real"
            for side, which in enumerate(rows):
                f = self._features.encode(data.train.subset(which).tensor(torch.float64))
                deviation = f.std(0, correction=0)
                self.centre[side] = torch.where(real, f.mean(0), 0.0).to(self.centre)
                self.spread[side] = torch.where(real & (deviation > 0), deviation, 1.0).to(self.spread)

    # -- the two maps -------------------------------------------------------------------------------------------------

    def see(self, x: Float[Tensor, "B *shape"], side: int) -> Float[Tensor, "B *features"]:
        """Features of records in the coordinates of a collection."""
        return (self._features.encode(x) - self.centre[side]) / self.spread[side]

    def across(self, f: Float[Tensor, "B *features"], side: int) -> Float[Tensor, "B *features"]:
        """The generator to the collection `side`: its coordinates from those of the other one."""
        y = self._features.squash(self.generators[side](f))
        if self.rounding == "soft" or self._features.spec.continuous:
            return y
        hard = self.see(self._record(y.detach(), side), side)
        return y + (hard - y.detach())  # the value of the nearest record, the gradient of y

    def _record(self, f: Tensor, side: int) -> Tensor:
        return self._features.decode(f * self.spread[side] + self.centre[side])

    # -- training -----------------------------------------------------------------------------------------------------

    def _objectives(self) -> tuple[Objective, ...]:
        own = {} if self.critic_lr is None else {"lr": self.critic_lr}
        critics = (
            Objective(
                f"critic {name}", (self.critics[side],), lambda batch, side=side: self._critic_loss(batch, side), 1, False, own, None, False
            )
            for side, name in enumerate("ab")
        )
        return (Objective("generators", (self.generators,), self._generators_loss, validate=False), *critics)

    def _both(self, batch: Batch) -> list[Tensor]:
        """[a, b]: each record of the batch with one drawn from the other collection, in the coordinates of their own."""
        assert self._stock is not None, "objectives exist in training only"
        records, rows = self._stock
        assert records.condition is not None
        first = records.condition[batch.index] == 0
        u = batch.rng.rand(len(batch)).cpu()
        drawn = [which[(u * len(which)).long().clamp(max=len(which) - 1)] for which in rows]
        partners, _ = records.batch(torch.where(first, drawn[1], drawn[0]), batch.rng)
        first = first.to(batch.x.device).reshape(-1, *[1] * (batch.x.ndim - 1))
        return [self.see(torch.where(first == (side == 0), batch.x, partners), side) for side in range(2)]

    def _generators_loss(self, batch: Batch) -> Loss:
        real = self._both(batch)
        fake = [self.across(real[1 - side], side) for side in range(2)]
        self._round = batch.index, real, [y.detach() for y in fake]  # the critics of this round look at the same
        terms: dict[str, Tensor] = {}

        def add(name: str, value: Tensor) -> None:
            value = value.flatten(1).mean(1) if value.ndim > 1 else value
            terms[name] = terms[name] + value if name in terms else value

        for side in range(2):
            score = self.critics[side](fake[side])
            add("adversarial", self.game.generator(score, score.detach()))
            add("cycle", (self.across(fake[1 - side], side) - real[side]).abs())
            if self._mu:
                # A record of the target in the coordinates that its generator is used to.
                raw = real[side] * self.spread[side] + self.centre[side]
                add("identity", (self.across((raw - self.centre[1 - side]) / self.spread[1 - side], side) - real[side]).abs())
        loss = self.adversarial * terms["adversarial"] + self.cycle * terms["cycle"]
        if self._mu:
            loss = loss + self.cycle * self._mu * terms["identity"]
        return Loss(loss, {k: v.detach() for k, v in terms.items()})

    def _critic_loss(self, batch: Batch, side: int) -> Loss:
        if self._round is None or self._round[0] is not batch.index:
            with torch.no_grad():
                real = self._both(batch)
                self._round = batch.index, real, [self.across(real[1 - s], s) for s in range(2)]
        _, real, fake = self._round
        pool: Any = self.pools[side]
        on_real, on_fake = self.critics[side](real[side]), self.critics[side](pool.exchange(fake[side], batch.rng))
        mean = lambda t: t.flatten(1).mean(1) if t.ndim > 1 else t
        loss = mean(self.game.critic(on_real, on_fake))
        terms = {"critic": loss.detach()}
        told = self.game.probabilities(on_real.detach(), on_fake.detach())
        if told is not None:
            terms |= {"D(real)": mean(told[0]), "D(fake)": mean(told[1])}
        return Loss(loss, terms)

    # -- the verbs ----------------------------------------------------------------------------------------------------

    def translate(self, records: Any, *, to: Any) -> Any:
        """The records, which are of the other collection, as records of the collection `to` (its label), in the user's own form.

        Of a part of the data set (`data.test`) the records of the other collection are taken, in their order. Grey images are
        taken as colour ones where the collections have colours.

        Raises
        ------
        DataError
            There is no such collection, or the records are of another form.
        """
        self._ready("translate")
        classes = self._classes()
        known = {str(c): side for side, c in enumerate(classes)}
        if str(to) not in known:
            raise DataError(f"There is no collection {str(to)!r} to translate to.{nearest(str(to), known)}")
        side = known[str(to)]
        if isinstance(records, Records) and records.labels() is not None:
            chosen = [i for i, label in enumerate(records.labels()) if str(label) == str(classes[1 - side])]
            records = records.subset(torch.tensor(chosen, dtype=torch.int64))
            if not chosen:
                raise DataError(f"None of these records is of the collection {str(classes[1 - side])!r}.")
        elif self.schema is not None:
            records = coloured(records, self.schema)
        x, _ = self._inputs(records, self._given(1 - side))
        with torch.no_grad():
            y = torch.cat([self._record(self.across(self.see(part, 1 - side), side), side) for part in x.split(CHUNK)]).cpu()
        return y if self.schema is None else self.schema.decode(y)

    def _given(self, side: int) -> Any:
        """A condition that says a collection, for a model that takes one."""
        assert self.spec is not None
        if not self.spec.condition_dim:
            return None
        return self._classes()[side] if self.schema is not None else torch.eye(2)[side]

    def _encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self._by_side(x, c, lambda part, side: self.across(self.see(part, side), 1 - side).flatten(1))

    def _decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        f = z.reshape(-1, *self._features.shape)
        return self._by_side(f, c, lambda part, side: self._record(self.across(part, side), side))

    def _by_side(self, t: Tensor, c: Tensor | None, verb: Any) -> Tensor:
        """`verb(rows, side)` for the rows of each collection that c (B, 2) says, the first without."""
        if c is None:
            return verb(t, 0)
        sides = c.argmax(1)
        if bool((sides == sides[:1]).all()):
            return verb(t, int(sides[0]))
        parts = {side: verb(t[sides == side], side) for side in range(2)}
        out = torch.empty(len(t), *parts[0].shape[1:], dtype=parts[0].dtype, device=t.device)
        for side, part in parts.items():
            out[sides == side] = part
        return out


def known_answers() -> Iterator[Known]:
    """The losses at the exact maps between two Gaussians and beside them, and the critic that least squares fit."""
    from .cycle_answers import answers

    yield from answers()
