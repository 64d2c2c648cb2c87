r"""Autoencoders: a record squeezed through a code of few numbers and back (Hinton & Salakhutdinov 2006), and their regularised kin.

With an encoder z = f(u), a decoder g and records as features u in [0, 1] (or standardised reals), training minimises per record

    |u - g(f(u~))|^2                              u~ = u, or u corrupted: denoising (Vincent et al. 2010)
    + contractive      |df/du|_F^2                (Rifai et al. 2011, equation 2)
    + code_penalty     |z|^2 / 2                  (Ghosh et al. 2020, equation 7)
    + gradient_penalty |dg/dz|_F^2                (Ghosh et al. 2020, RAE-GP)
    + decoder_decay    |theta_g|^2                (Ghosh et al. 2020, RAE-L2)

Squared norms of Jacobians are estimated without bias from one vector v of random signs, E|v^T J|^2 = tr(J^T E[v v^T] J) = |J|_F^2
(Hutchinson 1990); that of one layer z = s(W u + b) is sum_i s'(a_i)^2 |W_i|^2 exactly.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...data.features import categorical_pixels
from ...data.spec import DataSpec
from ...errors import ConfigError
from ...known import Known
from ...model import Batch, GradientModel, Objective
from ...nn import MLP, decoder_for, encoder_for, network_for
from ...rng import Rng
from ...train import Loss, Training
from .entries import UnitFeatures

__all__ = ["Autoencoder"]

_CODES = {"linear": lambda a: a, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}
_SLOPES = {  # of each, from its value
    "linear": torch.ones_like,
    "sigmoid": lambda h: h * (1 - h),
    "tanh": lambda h: 1 - h.square(),
    "relu": lambda h: (h > 0).to(h.dtype),
}


class Autoencoder(GradientModel):
    """Autoencoder: plain, linear, denoising, contractive or regularised. It encodes and decodes, and has no likelihood.

    To generate, give its codes a density: `LatentPrior(Autoencoder(), prior=...)` with a mixture, a kernel density or a flow.

    Parameters
    ----------
    latent_dim
        Dimensions of the code. 30 is that of Hinton & Salakhutdinov's digits; 2 can be plotted.
    hidden
        Widths of the encoder's dense layers, and in reverse order of the decoder's. Hinton & Salakhutdinov take (1000, 500, 250) on MNIST.
        `()` with squared error is the linear autoencoder, whose codes span the subspace of PCA (Baldi & Hornik 1989).
    network
        `auto` takes convolutions for images of at least 16 x 16 and dense layers otherwise.
    activation
        Between layers; `sigmoid` is that of the first autoencoders.
    code
        What the encoder's last layer goes through; Vincent et al. and Rifai et al. use sigmoid codes.
    loss
        `squared` error, bounded entries in [0, 1], reals standardised, categories one-hot; `cross-entropy` for all bounded entries
        and categories (grey levels as probabilities of white, as Hinton & Salakhutdinov do: no likelihood). `auto` takes cross-entropy
        for binary entries and categories, squared error for the rest.
    output
        `sigmoid` keeps bounded outputs in [0, 1] and categories on the simplex; `linear` does not, and `decode` clamps. `auto`: sigmoid,
        but linear for the linear autoencoder.
    noise
        Strength of the corruption that the encoder sees in training: the standard deviation of Gaussian noise (in units where bounded
        entries span [0, 1] and reals have variance 1), or the share of entries that are masked. Vincent et al. (2010) use 0.1 to 0.4.
    corruption
        `gaussian` noise, or `mask`, which sets entries to 0 (a category to none).
    contractive
        Weight of the squared Frobenius norm of the encoder's Jacobian.
    code_penalty
        Weight of half the code's squared length.
    gradient_penalty
        Weight of the squared Frobenius norm of the decoder's Jacobian at the codes.
    decoder_decay
        Weight of the squared length of the decoder's weights.

    Notes
    -----
    Terms reported in training, per record: `squared error` and `cross-entropy` where there are any, and each penalty with its weight.
    `squared_error(records)` is the reconstruction's error before it is rounded to a valid record.

    Raises `ConfigError` for weights below 0, a masked share above 1, and cross-entropy of linear outputs.
    """

    name = "autoencoder"
    density = "none"
    training = Training(lr=1e-3, schedule="cosine")
    unsupported = {
        "sample": "an autoencoder has no distribution of codes to draw from. Fit one: LatentPrior(Autoencoder(), prior=GaussianMixture()).",
        "log_prob": "an autoencoder defines no density. Fit a vae, or compare samples of LatentPrior(Autoencoder(), prior=...) with "
        "evaluate().",
        "posterior": "its encoder is deterministic, so p(z | x) is a point. Use encode(x), or fit a vae.",
        "likelihood": "its decoder is deterministic, so p(x | z) is a point. Use decode(z), or fit a vae.",
    }

    def __init__(
        self,
        *,
        latent_dim: int = 20,
        hidden: tuple[int, ...] = (400,),
        network: Literal["auto", "mlp", "conv"] = "auto",
        activation: Literal["relu", "leaky_relu", "elu", "silu", "gelu", "tanh", "softplus", "sigmoid"] = "relu",
        code: Literal["linear", "sigmoid", "tanh", "relu"] = "linear",
        loss: Literal["auto", "squared", "cross-entropy"] = "auto",
        output: Literal["auto", "sigmoid", "linear"] = "auto",
        noise: float = 0.0,
        corruption: Literal["gaussian", "mask"] = "gaussian",
        contractive: float = 0.0,
        code_penalty: float = 0.0,
        gradient_penalty: float = 0.0,
        decoder_decay: float = 0.0,
    ):
        super().__init__()
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.network = network
        self.activation = activation
        self.code = code
        self.loss = loss
        self.output = output
        self.noise, self.corruption = noise, corruption
        self.contractive = contractive
        self.code_penalty = code_penalty
        self.gradient_penalty = gradient_penalty
        self.decoder_decay = decoder_decay

    @classmethod
    def accepts(cls, spec: DataSpec) -> str | None:
        return categorical_pixels(cls.__name__, spec)

    def _build(self, spec: DataSpec) -> None:
        self._check_hyperparameters()
        entries = UnitFeatures(spec, self.loss, self.output == "linear")
        linear = network_for(entries.shape, self.network) == "mlp" and not self.hidden
        if linear and self.output == "auto" and not any(entries.entropy):
            entries = UnitFeatures(spec, self.loss, True)
        self.entries = entries
        net: dict[str, Any] = {"condition_dim": spec.condition_dim, "activation": self.activation, "network": self.network}
        self.encoder_net = encoder_for(entries.shape, self.latent_dim, hidden=self.hidden, **net)
        self.decoder_net = decoder_for(self.latent_dim, entries.shape, hidden=self.hidden[::-1], **net)

    def _check_hyperparameters(self) -> None:
        if self.latent_dim < 1:
            raise ConfigError(f"latent_dim must be at least 1, got {self.latent_dim}.")
        for name in ("noise", "contractive", "code_penalty", "gradient_penalty", "decoder_decay"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.corruption == "mask" and self.noise > 1:
            raise ConfigError(f"noise={self.noise:g} is above 1: with corruption='mask' it is the share of entries that are masked.")
        if self.loss == "cross-entropy" and self.output == "linear":
            raise ConfigError("loss='cross-entropy' compares probabilities, which output='linear' does not give. Use output='sigmoid'.")

    # -- the two maps -----------------------------------------------------------------------------------------------------

    def codes(self, u: Float[Tensor, "B *features"], c: Float[Tensor, "B C"] | None) -> Float[Tensor, "B d"]:
        """f(u | c), differentiable, of unit features; see `UnitFeatures`."""
        return _CODES[self.code](self.encoder_net(u, c).to(u.dtype))

    def outputs(self, z: Float[Tensor, "B d"], c: Float[Tensor, "B C"] | None) -> Float[Tensor, "B *features"]:
        """g(z | c), differentiable, in unit features."""
        return self.entries.squash(self._raw(z, c))

    def _raw(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self.decoder_net(z, c).to(z.dtype)

    def _encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self.codes(self.entries.encode(x), c)

    def _decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self.entries.decode(self.outputs(z, c))

    def squared_error(self, records: Any, *, condition: Any = None) -> Float[Tensor, " n"]:
        """|u - g(f(u))|^2 of each record: bounded entries span [0, 1], reals are standardised, categories one-hot.

        On grey images this is the squared error that Hinton & Salakhutdinov (2006) report, summed over pixels.
        """
        self._ready("reconstruct")
        with torch.no_grad():
            found = []
            for x, c in self._chunks(records, condition):
                u = self.entries.encode(x)
                found.append((self.outputs(self.codes(u, c), c) - u).square().flatten(1).sum(1).cpu())
            return torch.cat(found)

    # -- training ---------------------------------------------------------------------------------------------------------

    def _objectives(self) -> tuple[Objective, ...]:
        return (Objective("autoencoder", (self,), self._loss),)

    def _loss(self, batch: Batch) -> Loss:
        u, c, rng = self.entries.encode(batch.x), batch.c, batch.rng
        seen = self._corrupt(u, rng) if self.noise else u
        slopes = bool(self.contractive) and not self._one_layer()
        train = torch.is_grad_enabled()
        with torch.set_grad_enabled(train or slopes or self.gradient_penalty > 0):  # penalties are derivatives: validation needs them too
            if slopes:
                seen = seen.detach().requires_grad_()
            z = self.codes(seen, c)
            if self.gradient_penalty and not z.requires_grad:
                z.requires_grad_()  # a frozen encoder
            raw = self._raw(z, c)
            terms = self.entries.losses(raw, u)
            if slopes:
                terms["contractive"] = self.contractive * jacobian_norm(z, seen, rng, train)
            elif self.contractive:
                terms["contractive"] = self.contractive * self._layer_norm(z)
            if self.code_penalty:
                terms["code penalty"] = self.code_penalty / 2 * z.square().sum(1)
            if self.gradient_penalty:
                terms["gradient penalty"] = self.gradient_penalty * jacobian_norm(self.entries.squash(raw), z, rng, train)
            if self.decoder_decay:
                weights = torch.stack([p.square().sum() for p in self.decoder_net.parameters()]).sum()
                terms["decoder decay"] = (self.decoder_decay * weights).expand(len(u))
        return Loss(torch.stack(list(terms.values())).sum(0) if len(terms) > 1 else next(iter(terms.values())), terms)

    def _corrupt(self, u: Tensor, rng: Rng) -> Tensor:
        if self.corruption == "gaussian":
            return u + self.noise * rng.randn(*u.shape)
        return u * self.entries.spread((rng.rand(len(u), self.entries.columns) >= self.noise).to(u.dtype))

    def _one_layer(self) -> bool:
        return isinstance(self.encoder_net, MLP) and len(self.encoder_net.layers) == 1

    def _layer_norm(self, z: Tensor) -> Float[Tensor, " B"]:
        """|df/du|_F^2 of codes z = s(W u + b)."""
        layer: Any = self.encoder_net
        W = layer.layers[0].weight[:, : self.entries.dim]
        return _SLOPES[self.code](z).square() @ W.square().sum(1)


def jacobian_norm(y: Float[Tensor, "B *out"], x: Float[Tensor, "B *in"], rng: Rng, train: bool) -> Float[Tensor, " B"]:
    """|dy_i / dx_i|_F^2 of each record, estimated without bias with one vector of random signs; differentiable when `train`."""
    signs = (2 * rng.randint(2, *y.shape) - 1).to(y.dtype)
    (g,) = torch.autograd.grad(y, x, signs, create_graph=train, retain_graph=True)
    return g.flatten(1).square().sum(1)


def fit_full_batch(model: Autoencoder, x: Tensor, steps: int = 500) -> None:
    """Minimise the loss on all records at once by L-BFGS: for small problems whose optimum is wanted to many digits."""
    batch = Batch(x, None, torch.arange(len(x)), Rng.seeded(0, x))
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=steps, tolerance_grad=1e-12, tolerance_change=1e-16, history_size=50, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = model._loss(batch).per_record.mean()
        value.backward()
        return value

    optimizer.step(closure)


def known_answers() -> Iterator[Known]:
    """The linear autoencoder beside scikit-learn's PCA; the penalties beside autograd's Jacobians."""
    import numpy as np
    from scipy.linalg import subspace_angles
    from sklearn.decomposition import PCA

    generator = torch.Generator().manual_seed(0)
    W = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    sd = torch.tensor([3.0, 2.0, 1.5, 0.7, 0.5, 0.3], dtype=torch.float64)
    x = torch.randn(200, 6, generator=generator, dtype=torch.float64) * sd @ W + 1.0
    model = Autoencoder(latent_dim=3, hidden=()).build(DataSpec("points", (6,))).double()
    fit_full_batch(model, x)
    pca: Any = PCA(3).fit(x.numpy())
    decoder: Any = model.decoder_net
    angle = float(subspace_angles(decoder.layers[0].weight.detach().numpy(), pca.components_.T).max())
    # An angle t costs about (lambda_3 - lambda_4) t^2 = 2 t^2: at rounding of 1e-16 of a loss of order 1 it is known to about 1e-8.
    yield Known(
        "linear autoencoder: largest principal angle to PCA", 0.0, angle, 1e-5, "L-BFGS stops at gradients of 1e-12 or its last digits"
    )
    error = float(np.square(pca.inverse_transform(pca.transform(x.numpy())) - x.numpy()).sum(1).mean())
    ours = float(model.squared_error(x).mean())
    yield Known("linear autoencoder: squared error beside PCA's", error, ours, 1e-8, "an excess of 2 t^2 for an angle t of 1e-5")

    rounding = "rounding of 1e-16 over some hundred operations on numbers of order 10"
    u = torch.rand(5, 4, generator=generator, dtype=torch.float64)
    one = Autoencoder(latent_dim=3, hidden=(), code="sigmoid", contractive=1.0).build(DataSpec("points", (4,))).double()
    gap = (one._layer_norm(one.codes(u, None)).detach() - exact_norm(lambda t: one.codes(t, None), u)).abs().max()
    yield Known("contractive penalty of one sigmoid layer beside autograd's Jacobian", 0.0, float(gap), 1e-12, rounding)
    deep = Autoencoder(latent_dim=3, hidden=(8,), activation="tanh").build(DataSpec("points", (4,))).double()
    for what, call, at, d in (
        ("encoder", lambda t: deep.codes(t, None), u, 3),
        ("decoder", lambda t: deep.outputs(t, None), u[:, :3], 4),
    ):
        at = at.detach().requires_grad_()
        every = torch.stack([jacobian_norm(call(at), at, Signs(i, d), False) for i in range(2**d)])
        gap = (every.mean(0) - exact_norm(call, at)).abs().max()
        yield Known(f"{what}'s penalty, its mean over all vectors of signs, beside |J|^2", 0.0, float(gap), 1e-12, rounding)


def exact_norm(call: Any, x: Tensor) -> Tensor:
    """|d call(x_i) / d x_i|_F^2 of each row, from autograd's Jacobian of one row at a time."""
    rows = [torch.autograd.functional.jacobian(lambda t: call(t[None])[0], row.detach()) for row in x]
    return torch.stack([J.square().sum() for J in rows])  # pyright: ignore


class Signs(Rng):
    """A source of "random" bits that returns the digits of one number for every record."""

    def __init__(self, number: int, d: int):
        super().__init__(torch.Generator())
        self.bits = torch.tensor([number >> i & 1 for i in range(d)])

    def randint(self, high: int, *shape: int) -> Tensor:
        assert (high, math.prod(shape[1:])) == (2, len(self.bits))
        return self.bits.expand(shape)
