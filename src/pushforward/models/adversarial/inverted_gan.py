r"""An encoder for a GAN: the generator turned round by a network that is trained on its own samples.

The game of `GAN` is left as it is. Beside it an encoder E minimises, over the generator's samples y = G(z) and the records x, with f the
features of records in D dimensions and d the width of z,

    code * |E(y) - z|^2 / d  +  reconstruction * |G(E(x)) - f(x)|^2 / D

The first term is supervised: every sample comes with its code (Luo et al. 2017, section 3). Samples do not fill the data, so the second
asks for reconstructions of records themselves (Zhu et al. 2016, eq. 3). No gradient of either reaches the generator.

For linear G and E the minimum of both is the pseudo-inverse of G, which finds the code of the nearest point in G's range. In general E(x)
is only near it: `refine` goes on from there with some steps of a search for each record; see `inversion`.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...ais import Joint
from ...data import Data
from ...data.features import Features
from ...data.spec import DataSpec
from ...errors import ConfigError, DataError
from ...inversion import range_of, search
from ...known import Known
from ...model import GradientModel, Model
from ...nn import encoder_for, network_for
from ...rng import Rng
from ...train import Batch, Loss, Objective
from .gan import GAN

__all__ = ["InvertedGAN"]


class InvertedGAN(GradientModel):
    """A GAN that encodes: its generator, and a network that finds the codes of records under it.

    Parameters
    ----------
    gan
        The GAN. One that is fitted already keeps its weights, and only the encoder is trained, on the same data; any other is trained
        together with the encoder. None for `GAN()`.
    fitted
        Whether `gan` comes with its weights; None sees for itself. (A run remembers it here.)
    code
        Weight of the squared error of the codes of samples.
    reconstruction
        Weight of the squared error of reconstructed records.
    refine
        Damped steps of the search that `encode` takes from the encoder's code (see `pushforward.inversion`); 0 takes none.
    network
        `mlp`, `conv`, or `auto`: convolutional for images of 16 pixels and more on each side.
    hidden
        Widths of the encoder's hidden layers (MLP).
    channels
        Channels at full size of a convolutional encoder.

    Notes
    -----
    Terms reported: those of the GAN, `code` and `reconstruction` with their weights.

    Raises `ConfigError` for a `fitted` GAN that is not, and `DataError` where the data are others than those it was fitted to.

    References
    ----------
    Luo, Xu & Tang 2017, "Learning Inverse Mapping by Autoencoder based Generative Adversarial Nets"; Zhu, Krähenbühl, Shechtman & Efros
    2016, "Generative Visual Manipulation on the Natural Image Manifold".
    """

    name = "inverted_gan"
    density = "none"
    training = GAN.training
    unsupported = {verb: reason for verb, reason in GAN.unsupported.items() if verb != "encode"}

    def __init__(
        self,
        *,
        gan: Model | None = None,
        fitted: bool | None = None,
        code: float = 1.0,
        reconstruction: float = 1.0,
        refine: int = 0,
        network: Literal["auto", "mlp", "conv"] = "auto",
        hidden: tuple[int, ...] = (256, 256),
        channels: int = 32,
    ):
        super().__init__()
        if gan is not None and not isinstance(gan, GAN):
            raise ConfigError(
                f"gan={gan.name} is no GAN; InvertedGAN turns round the generator of one. Its search works for others: invert()."
            )
        if refine < 0 or not (code >= 0 and reconstruction >= 0 and code + reconstruction > 0):
            raise ConfigError(f"Take refine >= 0 and weights >= 0, not both 0: {refine=}, {code=}, {reconstruction=}.")
        self._given = gan is not None and gan.spec is not None
        self.gan, self.fitted = gan, self._given if fitted is None else fitted
        self.code, self.reconstruction, self.refine = code, reconstruction, refine
        self.network, self.hidden, self.channels = network, hidden, channels

    @classmethod
    def accepts(cls, spec: DataSpec) -> str | None:
        return GAN.accepts(spec)

    def _build(self, spec: DataSpec) -> None:
        self.defaults = nn.ModuleDict({"gan": GAN()} if self.gan is None else {})
        gan = self.turned
        if not (self.fitted and self._given):
            gan.build(spec)
        elif gan.spec != spec:
            raise DataError(
                f"The fitted GAN is of records {gan.spec}, and these are {spec}. Give the data it was fitted to, with condition=True if it "
                "was conditional."
            )
        self._features = Features(spec)
        shape, network = self._features.shape, network_for(self._features.shape, self.network)
        net: dict[str, Any] = {"channels": self.channels, "condition_dim": spec.condition_dim, "activation": "leaky_relu"}
        self.encoder = encoder_for(shape, gan._z, hidden=self.hidden, network=network, **net)

    @property
    def turned(self) -> GAN:
        """The GAN that is turned round: the one given, or the default."""
        gan = self.defaults["gan"] if self.gan is None else self.gan
        assert isinstance(gan, GAN)
        return gan

    def _prepare(self, data: Data, seed: int) -> None:
        del seed
        own = self.turned.schema
        if self.fitted and own is not None and own.to_json() != data.schema.to_json():
            raise DataError(
                "The fitted GAN saw records through another schema (scaling, levels or classes) than these. Load the same data, or fit "
                "a new InvertedGAN() on them."
            )

    # -- the maps -----------------------------------------------------------------------------------------------------

    @property
    def noise(self) -> str:
        """The distribution of the entries of z."""
        return self.turned.noise

    def noise_like(self, n: int, rng: Rng) -> Float[Tensor, "n d"]:
        """z ~ p(z)."""
        return self.turned.noise_like(n, rng)

    def generate(self, z: Float[Tensor, "B d"], c: Float[Tensor, "B C"] | None) -> Float[Tensor, "B *features"]:
        """G(z | c)."""
        return self.turned.generate(z, c)

    def infer(self, f: Float[Tensor, "B *features"], c: Float[Tensor, "B C"] | None) -> Float[Tensor, "B d"]:
        """E(x | c) of the features of records."""
        z = self.encoder(f, c)
        return z if self.noise == "normal" else z.tanh()

    # -- training -----------------------------------------------------------------------------------------------------

    def _objectives(self) -> tuple[Objective, ...]:
        game = () if self.fitted else self.turned._objectives()
        return (*game, Objective("encoder", (self.encoder,), self._encoder_loss, validate=self.fitted))

    def _encoder_loss(self, batch: Batch) -> Loss:
        gan, loss, terms = self.turned, 0.0, {}
        if self.fitted:
            if batch.step == 0 and not self._given:
                raise ConfigError("fitted=True needs a fitted GAN: InvertedGAN(gan=pushforward.load(RUN)).fit(data).")
            gan.eval()  # its normalisation stays as it was fitted
        if self.code:
            with torch.no_grad():
                z = gan.noise_like(len(batch), batch.rng)
                y = self._features.encode(self._features.decode(gan.generate(z, batch.c)))  # samples as they are given out
            terms["code"] = self.code * (self.infer(y, batch.c) - z).square().mean(1)
            loss = loss + terms["code"]
        if self.reconstruction:
            f = self._features.encode(batch.x)
            off = (gan.generate(self.infer(f, batch.c), batch.c) - f).flatten(1)
            terms["reconstruction"] = self.reconstruction * off.square().mean(1)
            loss = loss + terms["reconstruction"]
        assert isinstance(loss, Tensor)
        return Loss(loss, {k: v.detach() for k, v in terms.items()})

    # -- the verbs ----------------------------------------------------------------------------------------------------

    def _sample(self, n: int, c: Tensor | None, rng: Rng, *, truncation: float | None = None) -> Tensor:
        """G(z | c); `truncation` as for `GAN`."""
        return self.turned._sample(n, c, rng, truncation=truncation)

    def _encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        f = self._features.encode(x)
        z = self.infer(f, c)
        if not self.refine:
            return z
        where = range_of(self)
        found, _, _ = search(lambda u, c: where.generate(where.bound(u), c), f.flatten(1), c, where.free(z)[:, None], steps=self.refine)
        return where.bound(found[:, 0])

    def _decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self.turned._decode(z, c)

    def _joint(self, *, noise: float) -> Joint:
        return self.turned._joint(noise=noise)


def known_answers() -> Iterator[Known]:
    """A linear generator and a linear encoder: what training finds is the pseudo-inverse, inside the range of G and outside it."""
    rng = Rng.seeded(0, torch.zeros((), dtype=torch.float64))
    gan = GAN(noise_dim=2, hidden=(), fourier=0, critic_hidden=())
    model = InvertedGAN(gan=gan, hidden=()).build(DataSpec("points", (4,))).double()
    A, b = (p.detach() for p in gan.generator_net.parameters())
    x = 2 * rng.randn(200, 4)
    optimizer = torch.optim.LBFGS(
        model.encoder.parameters(), max_iter=200, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model._encoder_loss(Batch(x, None, torch.arange(200), Rng.seeded(1, x))).per_record.mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        z, known = model._encode(x, None), (x - b) @ torch.linalg.pinv(A).T
        off = (model._decode(z, None) - x).square().sum(1)
    q, _ = torch.linalg.qr(A)
    distance = (x - b - (x - b) @ q @ q.T).square().sum(1)
    because = "the loss is a quadratic, whose slope is brought below 1e-12; its least curvature is above 1e-4"
    yield Known("trained linear encoder against the pseudo-inverse", 0.0, float((z - known).abs().max()), 1e-6, because)
    yield Known(
        "error of reconstructions against the squared distance from the range", 0.0, float((off - distance).abs().max()), 1e-6, because
    )
