r"""The semi-supervised adversarial autoencoder (Makhzani et al. 2015, section 5): a class and a style, each held to its prior by a critic.

An encoder gives class probabilities y = softmax(.) and a style z; the decoder p(x | y, z) sees both. In each round, on one batch (the
critics on the codes that the reconstruction was made from),

    reconstruction   min over encoder, decoder   -log p(x | y, z)
    critics          min over both critics       softplus(-T_y(y')) + softplus(T_y(y)) + softplus(-T_z(z')) + softplus(T_z(z))
    encoder          min over encoder            softplus(-T_y(y)) + softplus(-T_z(z))
    classifier       min over encoder            -log y_label, on records that show their label

with y' a one-hot draw from the classes, all alike, and z' ~ N(0, I). The first critic makes y one-hot and the classes equally frequent, the
second keeps the class out of z. Without labels the classes are clusters (their section 6).
"""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from ...data import Data
from ...data.features import Features, categorical_pixels
from ...data.spec import DataSpec
from ...decoders import Decoder
from ...errors import ConfigError
from ...model import Batch, GradientModel, Objective
from ...nn import MLP, encoder_for
from ...rng import Rng
from ...train import Loss, Training
from .adversarial_autoencoder import GAME, LastCodes
from .labels import Classifies, Labelled, count_classes

__all__ = ["SemiSupervisedAAE"]


class SemiSupervisedAAE(Classifies, GradientModel):
    """An adversarial autoencoder with a class and a style, taught by a few labels and many records.

    Fitted to data with labels it draws records of all classes (`sample`) or of one (`sample(label=...)`) and names classes (`predict`,
    `predict_proba`). `fit(data, condition=True)` trains the same model, and its verbs then take the label as condition. A code
    (n, C + latent_dim) is the class probabilities beside the style; of a conditional model, the style alone.

    Parameters
    ----------
    labelled
        How many training records show their label, drawn evenly from the classes by the seed; None uses every label there is, and 0
        none.
    classes
        The number of classes; None counts those of the labels.
    latent_dim
        Dimensions of the style z; 10 in the paper.
    hidden, critic_hidden
        Widths of the encoder's dense layers (in reverse order the decoder's) and of each critic's; (1000, 1000) in the paper.
    input_noise
        Standard deviation of Gaussian noise on what the encoder sees of a record in training, in units of its features.
    network, activation, likelihood
        As for `VAE`.

    Notes
    -----
    Terms reported: `reconstruction` in nats per record; `critic`, the sum of both losses, 2 log 4 = 2.77 where they tell nothing apart;
    `classification`, the cross-entropy, and `accuracy`, on labelled training records.

    Raises `DataError` without labels and without `classes`, and `ConfigError` for fewer labels than classes.

    References
    ----------
    Makhzani, Shlens, Jaitly, Goodfellow & Frey 2015, "Adversarial Autoencoders".
    """

    name = "ssaae"
    density = "none"
    takes_unlabelled = True
    training = Training(lr=5e-4, betas=(0.5, 0.999), schedule="cosine", ema=0.999)
    unsupported = {
        "log_prob": "an adversarial autoencoder matches its codes to the prior without a bound on log p(x). Estimate it with evidence(), "
        "or fit m2, whose log_prob is a bound.",
        "posterior": "its q(y, z | x) matches the prior in the mean over all records, and approximates no p(y, z | x). Use encode().",
    }

    def __init__(
        self,
        *,
        labelled: int | None = None,
        classes: int | None = None,
        latent_dim: int = 10,
        hidden: tuple[int, ...] = (400, 400),
        critic_hidden: tuple[int, ...] = (400, 400),
        input_noise: float = 0.0,
        network: Literal["auto", "mlp", "conv"] = "auto",
        activation: Literal["relu", "leaky_relu", "elu", "silu", "gelu", "tanh", "softplus"] = "relu",
        likelihood: Literal["auto", "bernoulli", "gaussian", "gaussian-unit", "gaussian-shared", "discretised", "categorical"] = "auto",
    ):
        super().__init__()
        self.labelled, self.classes, self.latent_dim = labelled, classes, latent_dim
        self.hidden, self.critic_hidden, self.input_noise = hidden, critic_hidden, input_noise
        self.network, self.activation, self.likelihood_ = network, activation, likelihood
        self._seen: Labelled | None = None
        self._last = LastCodes()

    @classmethod
    def accepts(cls, spec: DataSpec) -> str | None:
        return categorical_pixels(cls.__name__, spec)

    def _build(self, spec: DataSpec) -> None:
        if self.latent_dim < 1 or self.input_noise < 0:
            raise ConfigError(f"latent_dim must be at least 1 and input_noise at least 0, got {self.latent_dim} and {self.input_noise}.")
        self._C = count_classes(self, spec, self.classes)
        self._features = Features(spec)
        net: dict[str, Any] = {"network": self.network, "activation": self.activation}
        self.encoder = encoder_for(self._features.shape, self._C + self.latent_dim, hidden=self.hidden, **net)
        self.p_x = Decoder(spec.with_condition(self._C), self.latent_dim, likelihood=self.likelihood_, hidden=self.hidden[::-1], **net)
        self.critic_y = MLP(self._C, 1, self.critic_hidden, 0, "leaky_relu")
        self.critic_z = MLP(self.latent_dim, 1, self.critic_hidden, 0, "leaky_relu")

    def _prepare(self, data: Data, seed: int) -> None:
        self._seen = Labelled.of(data, self.labelled, seed)

    def _heads(self, x: Tensor, rng: Rng | None = None) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B d"]]:
        """The logits of the classes and the style; with noise on the features when `rng` is given."""
        f = self._features.encode(x)
        if rng is not None and self.input_noise > 0:
            f = f + self.input_noise * rng.randn(*f.shape)
        h = self.encoder(f).to(x.dtype)
        return h[:, : self._C], h[:, self._C :]

    # -- the objectives ---------------------------------------------------------------------------------------------------

    def _objectives(self) -> tuple[Objective, ...]:
        both = (self.critic_y, self.critic_z)
        players = [
            Objective("reconstruction", (self.encoder, self.p_x), self._reconstruction_loss, validate=False),
            Objective("critics", both, self._critic_loss, validate=False, fresh=False),
            Objective("encoder", (self.encoder,), self._encoder_loss, validate=False, fresh=False),
        ]
        if self._seen is not None:
            players.append(Objective("classifier", (self.encoder,), self._classifier_loss, validate=False, fresh=False))
        return tuple(players)

    def _reconstruction_loss(self, batch: Batch) -> Loss:
        logits, z = self._heads(batch.x, batch.rng)
        self._last.leave(batch, logits, z)
        loss = -self.p_x.log_prob(self.p_x(z, logits.softmax(1)), batch.x)
        return Loss(loss, {"reconstruction": loss.detach()})

    def _critic_loss(self, batch: Batch) -> Loss:
        logits, z = self._last.take(batch, lambda: self._heads(batch.x, batch.rng))
        y = one_hot(batch.rng.randint(self._C, len(z)), self._C).to(z.dtype)
        pairs = ((self.critic_y, y, logits.softmax(1)), (self.critic_z, batch.rng.randn(*z.shape), z))
        loss = torch.stack([GAME.critic(net(real).squeeze(1), net(fake).squeeze(1)) for net, real, fake in pairs]).sum(0)
        return Loss(loss, {"critic": loss.detach()})

    def _encoder_loss(self, batch: Batch) -> Loss:
        logits, z = self._heads(batch.x, batch.rng)
        loss = GAME.rule.generator(self.critic_y(logits.softmax(1))).squeeze(1) + GAME.rule.generator(self.critic_z(z)).squeeze(1)
        return Loss(loss, {"encoder": loss.detach()})

    def _classifier_loss(self, batch: Batch) -> Loss:
        assert self._seen is not None
        x, y = self._seen.draw(batch)
        log_q = self._heads(x, batch.rng)[0].log_softmax(1)
        loss = -(y * log_q).sum(1)
        right = (log_q.argmax(1) == y.argmax(1)).to(x.dtype)
        return Loss(loss, {"classification": loss.detach(), "accuracy": right})

    # -- the verbs --------------------------------------------------------------------------------------------------------

    def _log_p_y(self) -> Tensor:
        weight: Any = self.critic_z.layers[0].weight
        return weight.new_full((self._C,), -math.log(self._C))

    def _predict_proba(self, x: Tensor) -> Tensor:
        return self._heads(x)[0].softmax(1)

    def _encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        logits, z = self._heads(x)
        return z if c is not None else torch.cat([logits.softmax(1), z], 1)
