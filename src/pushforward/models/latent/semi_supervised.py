r"""The semi-supervised variational autoencoder M2 (Kingma, Mohamed, Rezende & Welling 2014).

A record has a class y ~ p(y), seen for a few records and hidden for the rest, and a style z ~ N(0, I); p(x | y, z) is the decoder. With
q(z | x, y) = N(mu(x, y), diag sigma(x, y)^2) and the classifier q(y | x), a record's evidence has the bounds

    log p(x, y) >= -L(x, y) = E_q(z|x,y)[log p(x | y, z)] + log p(y) - KL(q(z | x, y) || p(z))                    (their equation 6)
    log p(x)    >= -U(x)    = sum_y q(y | x) (-L(x, y)) + H(q(y | x))                                              (equation 7)

The sum over classes is taken in full. With N records of which N_l show their class, training minimises

    (1/N) [ sum_labelled L(x, y) + sum_others U(x) ]  +  alpha  E_labelled[-log q(y | x)]                          (equation 9, over N),

where the paper's own alpha is 0.1 N, here 0.1. What `log_prob` bounds is log p(x), with z by importance sampling and y in full:

    log sum_y p(y) (1/K) sum_k p(x | y, z_k) p(z_k) / q(z_k | x, y),     z_k ~ q(z | x, y).
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ...data import Data
from ...data.features import Features, categorical_pixels
from ...data.spec import DataSpec
from ...decoders import Decoder
from ...errors import ConfigError
from ...known import Known
from ...likelihoods import Gaussian
from ...model import Batch, GradientModel, Objective
from ...nn import MLP, activation_layer, encoder_for
from ...rng import Rng
from ...train import Loss, Training
from .labels import Classifies, Labelled, count_classes
from .linear import Nodes, cubature
from .vae import MEMORY

__all__ = ["M2VAE"]


class M2VAE(Classifies, GradientModel):
    """The semi-supervised variational autoencoder: a few labels, many records, and a generative classifier of both.

    Fitted to data with labels it models p(x) (`sample`, `log_prob`), names classes (`predict`, `predict_proba`) and draws records of a
    class (`sample(label=...)`). `fit(data, condition=True)` trains the same model, and its verbs then speak of p(x | label). A code
    (n, C + latent_dim) is the one-hot most probable class beside the mean of q(z | x, that class); of a conditional model, the mean alone.

    Parameters
    ----------
    labelled
        How many training records show their label, drawn evenly from the classes by the seed; None uses every label there is, and 0
        none (the classes are then clusters).
    classes
        The number of classes; None counts those of the labels.
    latent_dim
        Dimensions of the style z; Kingma et al. use 50.
    hidden
        Widths of the dense layers of each network, in reverse order in the decoder. Kingma et al. (M2) use (500,).
    network, activation, likelihood
        As for `VAE`.
    alpha
        Weight of the classifier's cross-entropy on labelled records, in nats per record; 0.1 is Kingma et al.'s 0.1 N.
    class_prior
        p(y): all classes alike, or as often as among the labels seen (one record added to each).

    Notes
    -----
    A round of training takes a batch of all records, and (unless every label is used) as many drawn from the labelled ones. Terms
    reported, in nats per record: `reconstruction` and `kl` of the records without label, in the mean over q(y | x), where `kl` counts
    KL(q(y | x) || p(y)) too; `classification`, the cross-entropy; `accuracy` on labelled training records.

    Raises `DataError` without labels and without `classes`, and `ConfigError` for fewer labels than classes.

    References
    ----------
    Kingma, Mohamed, Rezende & Welling 2014, "Semi-supervised Learning with Deep Generative Models".
    """

    name = "m2"
    density = "bound"
    estimator = "the importance-weighted bound, K = 100 for each class"
    takes_unlabelled = True
    training = Training(lr=1e-3, schedule="cosine")

    log_prior: Tensor

    def __init__(
        self,
        *,
        labelled: int | None = None,
        classes: int | None = None,
        latent_dim: int = 50,
        hidden: tuple[int, ...] = (500,),
        network: Literal["auto", "mlp", "conv"] = "auto",
        activation: Literal["relu", "leaky_relu", "elu", "silu", "gelu", "tanh", "softplus"] = "relu",
        likelihood: Literal["auto", "bernoulli", "gaussian", "gaussian-unit", "gaussian-shared", "discretised", "categorical"] = "auto",
        alpha: float = 0.1,
        class_prior: Literal["uniform", "labels"] = "uniform",
    ):
        super().__init__()
        self.labelled, self.classes, self.latent_dim, self.hidden = labelled, classes, latent_dim, hidden
        self.network, self.activation, self.likelihood_ = network, activation, likelihood
        self.alpha, self.class_prior = alpha, class_prior
        self._seen: Labelled | None = None

    @classmethod
    def accepts(cls, spec: DataSpec) -> str | None:
        return categorical_pixels(cls.__name__, spec)

    def _build(self, spec: DataSpec) -> None:
        if self.latent_dim < 1 or self.alpha < 0:
            raise ConfigError(f"latent_dim must be at least 1 and alpha at least 0, got {self.latent_dim} and {self.alpha}.")
        self._C = count_classes(self, spec, self.classes)
        self._features = features = Features(spec)
        net: dict[str, Any] = {"hidden": self.hidden, "activation": self.activation, "network": self.network}
        self.q_y = encoder_for(features.shape, self._C, **net)
        # q(z | x, y) is a trunk that sees x alone, and so runs once for all classes, under a head that sees its output and y.
        width, act = self.hidden[-1] if self.hidden else features.dim, self.activation
        self.trunk: nn.Module = nn.Flatten()
        if self.hidden:
            self.trunk = nn.Sequential(encoder_for(features.shape, width, **{**net, "hidden": self.hidden[:-1]}), activation_layer(act))
        self.q_z = MLP(width, 2 * self.latent_dim, self.hidden[-1:], self._C, act)
        whole = spec.with_condition(self._C)
        decoder: dict[str, Any] = {**net, "hidden": self.hidden[::-1]}
        self.p_x = Decoder(whole, self.latent_dim, likelihood=self.likelihood_, **decoder)
        self.register_buffer("log_prior", torch.full((self._C,), -math.log(self._C)))

    def _prepare(self, data: Data, seed: int) -> None:
        self._seen = Labelled.of(data, self.labelled, seed)
        if self.class_prior == "labels" and self._seen is not None:
            counts = torch.bincount(self._seen.codes().cpu(), minlength=self._C).double() + 1
            self.log_prior.copy_((counts / counts.sum()).log())

    # -- the parts --------------------------------------------------------------------------------------------------------

    def _see(self, x: Tensor) -> Tensor:
        return self._features.see(x)

    def log_classes(self, x: Float[Tensor, "B *shape"]) -> Float[Tensor, "B C"]:
        """log q(y | x)."""
        return self.q_y(self._see(x)).to(x.dtype).log_softmax(1)

    def style(self, x: Float[Tensor, "B *shape"], y: Float[Tensor, "B Y C"]) -> tuple[Tensor, Tensor]:
        """(mu, log sigma^2) of q(z | x, y) for Y labels of each record, each (B, Y, d)."""
        B, Y, C = y.shape
        f = self._see(x)
        h = self.trunk(f).to(x.dtype)[:, None].expand(B, Y, -1).reshape(B * Y, -1)
        mu, log_var = self.q_z(h, y.reshape(B * Y, C)).to(x.dtype).view(B, Y, -1).chunk(2, 2)
        return mu, log_var

    def _parts(self, x: Tensor, y: Float[Tensor, "B Y C"], rng: Rng) -> tuple[Tensor, Tensor]:
        """-E_q log p(x | y, z) by one draw of z, and KL(q(z | x, y) || p(z)), each (B, Y)."""
        B, Y, C = y.shape
        mu, log_var = self.style(x, y)
        sigma = torch.exp(0.5 * log_var)
        z = torch.addcmul(mu, sigma, rng.randn(*mu.shape))
        kl = 0.5 * (mu.square() + sigma.square() - log_var - 1.0).sum(2)
        params = self.p_x(z.view(B * Y, -1), y.reshape(B * Y, C))
        x_y = x if Y == 1 else x.repeat_interleave(Y, 0)
        return -self.p_x.log_prob(params, x_y).view(B, Y), kl

    def _log_p_y(self) -> Tensor:
        return self.log_prior

    # -- training ---------------------------------------------------------------------------------------------------------

    def _objectives(self) -> tuple[Objective, ...]:
        return (Objective("m2", (self,), self._loss),)

    def _loss(self, batch: Batch) -> Loss:
        # Validation records are another split: the labels at hand are not theirs, and the bound on p(x) needs none.
        seen = self._seen if self.training else None
        if seen is None:
            loss, terms = self._unlabelled(batch.x, batch.rng)
            return Loss(loss, terms)
        loss, terms = torch.zeros_like(batch.x.flatten(1)[:, 0]), {}
        if seen.share < 1:
            u, terms = self._unlabelled(batch.x, batch.rng)
            loss = torch.where(seen.hidden(batch), u, 0.0)
        x, y = seen.draw(batch)
        reconstruction, kl = (t.squeeze(1) for t in self._parts(x, y[:, None], batch.rng))
        log_q = self.log_classes(x)
        classification = -(y * log_q).sum(1)
        labelled = reconstruction + kl - y @ self.log_prior.to(y.dtype)
        terms = terms or {"reconstruction": reconstruction, "kl": kl}
        right = (log_q.argmax(1) == y.argmax(1)).to(x.dtype)
        return Loss(
            loss + seen.share * labelled + self.alpha * classification, {**terms, "classification": classification, "accuracy": right}
        )

    def _unlabelled(self, x: Tensor, rng: Rng) -> tuple[Tensor, dict[str, Tensor]]:
        """U(x) and its terms."""
        log_q = self.log_classes(x)
        q = log_q.exp()
        reconstruction, kl = self._parts(x, self._every_class(x), rng)
        reconstruction = (q * reconstruction).sum(1)
        kl = (q * (kl + log_q - self.log_prior.to(x.dtype))).sum(1)
        return reconstruction + kl, {"reconstruction": reconstruction, "kl": kl}

    # -- verbs ------------------------------------------------------------------------------------------------------------

    def _log_prob(self, x: Tensor, c: Tensor | None, rng: Rng, *, samples: int = 100) -> Float[Tensor, " B"]:
        """The importance-weighted bound on log p(x) (on log p(x | c) of a conditional model), K = `samples` draws for each class."""
        if samples < 1:
            raise ConfigError(f"samples must be at least 1, got {samples}.")
        rows = max(1, MEMORY // max(self.p_x.outputs, self.latent_dim, *self.hidden))
        if len(x) > rows:
            parts = zip(x.split(rows), [None] * len(x) if c is None else c.split(rows))
            return torch.cat([self._log_prob(a, b, rng, samples=samples) for a, b in parts])
        if c is not None:
            return self._given(x, c, rng, samples, rows)
        classes = self._every_class(x).unbind(1)
        each = torch.stack([self._given(x, y, rng, samples, rows) for y in classes], 1)
        return (each + self.log_prior.to(x.dtype)).logsumexp(1)

    def _given(self, x: Tensor, y: Float[Tensor, "B C"], rng: Rng, samples: int, rows: int) -> Float[Tensor, " B"]:
        """log (1/K) sum_k p(x | y, z_k) p(z_k) / q(z_k | x, y), in steps over K so that memory does not grow with it."""
        mu, log_var = self.style(x, y[:, None])
        B, d, step = len(x), self.latent_dim, max(1, rows // max(1, len(x)))
        total = x.new_full((B,), -math.inf)
        for start in range(0, samples, step):
            k = min(step, samples - start)
            eps = rng.randn(B, k, d)
            z = mu + torch.exp(0.5 * log_var) * eps
            log_ratio = (0.5 * eps.square() - 0.5 * z.square()).sum(2) + 0.5 * log_var.sum(2)
            params = self.p_x(z.reshape(B * k, d), y.repeat_interleave(k, 0))
            log_x = self.p_x.log_prob(params, x.repeat_interleave(k, 0)).view(B, k)
            total = torch.logaddexp(total, (log_x + log_ratio).logsumexp(1))
        return total - math.log(samples)

    def _predict_proba(self, x: Tensor) -> Tensor:
        return self.log_classes(x).exp()

    def _encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        y = one_hot(self.log_classes(x).argmax(1), self._C).to(x.dtype) if c is None else c
        mu = self.style(x, y[:, None])[0].squeeze(1)
        return mu if c is not None else torch.cat([y, mu], 1)


def known_answers() -> Iterator[Known]:
    """A linear-Gaussian M2, x = W z + V y + b + s e: log p(x | y), log p(x) and both posteriors are known in closed form."""
    model, exact = linear_gaussian(5, 2, 3)
    x = 2 * torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given, evidence, log_q, covariance = exact(x)
    rounding = "rounding of 1e-16 over some hundred operations on numbers of order 10"

    # With q = p(z | x, y) every weight is p(x | y), whatever z was drawn; the sum over classes is then p(x).
    error = float((model._log_prob(x, None, Rng.seeded(0, x), samples=1) - evidence).abs().max())
    yield Known("linear M2: the bound equals log p(x) when q is the posterior", 0.0, error, 1e-10, rounding)
    y = model._every_class(x).unbind(1)
    error = max(float((model._log_prob(x, y[k], Rng.seeded(k, x), samples=1) - given[:, k]).abs().max()) for k in range(3))
    yield Known("linear M2: the bound given y equals log p(x | y)", 0.0, error, 1e-10, rounding)
    error = float((model._predict_proba(x).log() - log_q).abs().max())
    yield Known("linear M2: Bayes' rule over the bounds is q(y | x)", 0.0, error, 1e-10, rounding)

    # E_q of the quadratic log p(x | y, z) is exact over the nodes +-sqrt(d) e_i. With both posteriors, U(x) = -log p(x).
    def bound() -> Tensor:
        return -torch.stack([model._unlabelled(x, Nodes(e))[0] for e in cubature(2)]).mean(0)

    yield Known("linear M2: -U(x) = log p(x) at the posterior", 0.0, float((bound() - evidence).abs().max()), 1e-10, rounding)

    # With others it falls short by KL(q(y, z | x) || p(y, z | x)) = KL of the classes + E_q(y | x) KL of the styles.
    layer: Any = model.q_z.layers[0]
    with torch.no_grad():
        layer.bias += torch.tensor([0.3, -0.2, 0.1, 0.4], dtype=torch.float64)
        head: Any = model.q_y
        head.layers[0].weight.mul_(0.5)
    ours = model.log_classes(x)
    mu, log_var = model.style(x, model._every_class(x))
    q = torch.distributions.MultivariateNormal(mu, torch.diag_embed(log_var.exp()))
    p = torch.distributions.MultivariateNormal(mu - torch.tensor([0.3, -0.2], dtype=torch.float64), covariance)
    gap = (ours.exp() * (ours - log_q + torch.distributions.kl_divergence(q, p))).sum(1)
    error = float((evidence - bound() - gap).abs().max())
    yield Known("linear M2: log p(x) + U(x) - KL(q(y, z | x) || p(y, z | x))", 0.0, error, 1e-10, rounding)


def linear_gaussian(dim: int, latent: int, classes: int) -> tuple[M2VAE, Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]]:
    """An M2 with linear networks in double precision whose q are its posteriors, and x -> (log p(x | y) (B, C), log p(x), log p(y | x),
    covariance of z given x and y), all exact. The columns of W are orthogonal, so that the covariance is diagonal.
    """
    model = M2VAE(classes=classes, latent_dim=latent, hidden=(), likelihood="gaussian-shared").build(DataSpec("points", (dim,)))
    model.double().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    W = torch.linalg.qr(draw(dim, latent)).Q * torch.arange(1, latent + 1)
    V, b = draw(dim, classes), draw(dim)
    model.log_prior.copy_(draw(classes).log_softmax(0))
    assert model.p_x.log_scale is not None
    s = Gaussian().parts(torch.stack([model.p_x.log_scale, model.p_x.log_scale]))[1].exp()
    covariance = torch.linalg.inv(torch.eye(latent, dtype=torch.float64) + W.T @ W / s**2)
    A = covariance @ W.T / s**2
    total = W @ W.T + s**2 * torch.eye(dim, dtype=torch.float64)
    means = b + V.T
    slopes = torch.linalg.solve(total, means.T).T
    weights: dict[Any, tuple[Tensor, Tensor]] = {
        model.p_x.net: (torch.cat([W, V], 1), b),
        model.q_z: (
            torch.cat([torch.cat([A, -A @ V], 1), torch.zeros(latent, dim + classes)]),
            torch.cat([-A @ b, covariance.diagonal().log()]),
        ),
        model.q_y: (slopes, model.log_prior - 0.5 * (slopes * means).sum(1)),
    }
    for net, (weight, bias) in weights.items():
        net.layers[0].weight.copy_(weight)
        net.layers[0].bias.copy_(bias)

    def exact(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        given = torch.distributions.MultivariateNormal(means, total).log_prob(x[:, None])
        joint = given + model.log_prior
        return given, joint.logsumexp(1), joint.log_softmax(1), covariance

    return model, exact
