r"""The vector-quantised variational autoencoder (van den Oord, Vinyals & Kavukcuoglu 2017): codes are indices into a learned codebook.

An encoder gives M vectors z_m(x), each replaced by the nearest entry of a codebook, e_{k_m} with k_m = argmin_j |z_m - e_j|; a decoder
gives p(x | e_{k_1}, ..., e_{k_M}). Training minimises (equation 3, with the codebook's own term replaced by averages, appendix A.1)

    -log p(x | z + sg(e - z)) + beta sum_m |z_m - sg(e_{k_m})|^2,

sg without gradient: the decoder's gradient passes straight through to the encoder. The encoder is deterministic, so that with any
prior P(k) over codes

    log p(x) = log sum_k P(k) p(x | e_k) >= log P(k(x)) + log p(x | e_{k(x)}).
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution

from ...data import Data
from ...data.features import Features
from ...data.spec import DataSpec, categories
from ...decoders import Decoder, likelihood_for
from ...errors import ConfigError
from ...known import Known
from ...model import Batch, GradientModel, Objective
from ...nn import encoder_for, network_for
from ...nn.grid import GridDecoder, GridEncoder, grid_sizes
from ...rng import Rng
from ...train import Loss, Training
from .codebook import Codebook, indices

__all__ = ["VQVAE"]

START = 16
"""Vectors for each entry of the codebook, at most, of the k-means at the start."""


class VQVAE(GradientModel):
    """Vector-quantised autoencoder. Its samples come from a prior over its codes: `LatentPrior(VQVAE(), PixelCNN())`.

    Parameters
    ----------
    codebook_size
        K, entries of the codebook (the paper's 512).
    code_dim
        The width of an entry (the paper's 64).
    downsamplings
        Halvings from image to grid of codes, with convolutions: the paper's two give 7 x 7 codes for 28 x 28 pixels.
    codes
        M, codes of a record, with dense layers.
    channels
        Of the convolutions at the grid. The paper takes 256, on GPUs.
    blocks
        Residual blocks of encoder and decoder, with convolutions (the paper's two).
    hidden
        Widths of the encoder's dense layers, and in reverse order of the decoder's.
    network
        `auto` takes convolutions for images of at least 16 x 16 and dense layers otherwise.
    likelihood
        p(x | codes); `auto` follows the data. See `VAE`.
    beta
        Weight of the commitment term (the paper's 0.25; it finds 0.1 to 2 alike).
    decay
        Of the averages that the codebook follows (0.99, as in the authors' code).
    revive
        Entries used less than this share of 1 / K are moved onto encoded records; 0 leaves them dead.

    Notes
    -----
    Codes are whole numbers 0 .. K-1 in floating form, (n, M), M = H' W' row by row for a grid; `code_spec` says so to a prior.
    The codebook starts from k-means of encoded training records.

    Terms reported in training: `reconstruction` = -log p(x | codes) and `commitment`, in nats per record; `perplexity`, exp(H) of how
    often entries are chosen lately; and `codebook usage`, perplexity / K.

    `log_prob` is the bound above under the uniform prior of training, P(k) = K^-M; `LatentPrior` gives it with a learned prior.

    Raises `ConfigError` when a size is impossible, `DataError` when the likelihood does not fit the data or a code is none.
    """

    name = "vqvae"
    density = "bound"
    estimator = "log p(x | k) + log P(k) at the encoder's codes k, P uniform"
    training = Training(lr=1e-3, schedule="cosine")
    unsupported = {
        "sample": "its codes have no distribution but the uniform one of training, whose samples look like no record. Fit a prior of "
        "codes: LatentPrior(autoencoder=VQVAE(), prior=PixelCNN()) for convolutional networks, prior=MADE() for any.",
        "posterior": "its encoder is deterministic, so p(k | x) is a point. Use encode(x), or fit a categorical_vae.",
    }

    def __init__(
        self,
        *,
        codebook_size: int = 512,
        code_dim: int = 64,
        downsamplings: int = 2,
        codes: int = 4,
        channels: int = 64,
        blocks: int = 2,
        hidden: tuple[int, ...] = (256, 256),
        network: Literal["auto", "mlp", "conv"] = "auto",
        likelihood: Literal["auto", "bernoulli", "gaussian", "gaussian-unit", "gaussian-shared", "discretised", "categorical"] = "auto",
        beta: float = 0.25,
        decay: float = 0.99,
        revive: float = 0.1,
    ):
        super().__init__()
        self.codebook_size, self.code_dim = codebook_size, code_dim
        self.downsamplings = downsamplings
        self.codes = codes
        self.channels, self.blocks = channels, blocks
        self.hidden = hidden
        self.network = network
        self.likelihood_ = likelihood
        self.beta = beta
        self.decay = decay
        self.revive = revive

    def _build(self, spec: DataSpec) -> None:
        self._check_hyperparameters()
        self._features = features = Features(spec)
        cond: dict[str, Any] = {"condition_dim": spec.condition_dim}
        self.grid: tuple[int, int] | None = None
        decoder: dict[str, Any] = {"likelihood": self.likelihood_}
        if network_for(features.shape, self.network) == "conv":
            self.grid = grid_sizes(features.shape[1], features.shape[2], self.downsamplings)[-1]
            size: dict[str, Any] = {"downsamplings": self.downsamplings, "channels": self.channels, "blocks": self.blocks, **cond}
            family, _ = likelihood_for(self.likelihood_, spec)
            assert family is not None
            self.encoder_net = GridEncoder(features.shape, self.code_dim, **size)
            params = family.n_params - (self.likelihood_ == "gaussian-shared")
            self.decoder_net = decoder["own"] = GridDecoder(self.code_dim, spec.shape, **size, params=params)
        else:
            self.encoder_net = encoder_for(features.shape, self.codes * self.code_dim, hidden=self.hidden, network="mlp", **cond)
            decoder |= {"hidden": self.hidden[::-1], "network": "mlp"}
        self.n_codes = self.codes if self.grid is None else math.prod(self.grid)
        self.p_x = Decoder(spec, self.n_codes * self.code_dim, **decoder)
        self.codebook = Codebook(self.codebook_size, self.code_dim, self.decay, self.revive)

    def _check_hyperparameters(self) -> None:
        for name, least in {"codebook_size": 2, "code_dim": 1, "codes": 1, "channels": 1, "blocks": 0}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        for name in ("beta", "revive"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}.")
        if not 0 <= self.decay < 1:
            raise ConfigError(f"decay must be at least 0 and below 1, got {self.decay}.")

    @property
    def code_spec(self) -> DataSpec:
        """What the codes of a record are, for a prior: a grid (1, H', W') or M numbers, of categories 0 .. K-1."""
        assert self.spec is not None
        support = (categories(self.codebook_size),)
        if self.grid is None:
            return DataSpec("points", (self.codes,), support, self.spec.condition_dim)
        return DataSpec("image", (1, *self.grid), support, self.spec.condition_dim)

    # -- the two maps -----------------------------------------------------------------------------------------------------

    def vectors(self, x: Float[Tensor, "B *shape"], c: Float[Tensor, "B C"] | None) -> Float[Tensor, "B M d"]:
        """The encoder's vectors z, before they are replaced by entries."""
        z = self.encoder_net(self._features.see(x), c).to(x.dtype)
        return z.unflatten(1, (self.codes, self.code_dim)) if self.grid is None else z.flatten(2).transpose(1, 2)

    def _indices(self, z: Float[Tensor, "B M d"]) -> Int[Tensor, "B M"]:
        return self.codebook.nearest(z.detach().reshape(-1, self.code_dim)).view(z.shape[:2])

    def _params(self, e: Float[Tensor, "B M d"], c: Tensor | None) -> Tensor:
        """The raw parameters of p(x | e)."""
        return self.p_x(e.flatten(1) if self.grid is None else e.transpose(1, 2).flatten(1), c)

    def _at(self, index: Int[Tensor, "B M"], c: Tensor | None) -> Tensor:
        return self._params(self.codebook.entries[index], c)

    # -- training ---------------------------------------------------------------------------------------------------------

    def _prepare(self, data: Data, seed: int) -> None:
        """Start the codebook from k-means of some encoded records."""
        assert self.spec is not None
        rng = Rng.seeded(seed, self.codebook.entries)
        records = min(len(data.train), -(-START * self.codebook_size // self.n_codes))
        index = torch.randperm(len(data.train), generator=rng.generator)[:records]
        found: list[Tensor] = []
        with torch.no_grad():
            for at in index.split(512):
                x, c = data.train.batch(at, rng)
                found.append(self.vectors(x, c if self.spec.condition_dim else None).reshape(-1, self.code_dim))
        self.codebook.start(torch.cat(found), rng.generator)

    def _objectives(self) -> tuple[Objective, ...]:
        return (Objective("vqvae", (self,), self._loss),)

    def _loss(self, batch: Batch) -> Loss:
        z = self.vectors(batch.x, batch.c)
        index = self._indices(z)
        e = self.codebook.entries[index].to(z.dtype)
        reconstruction = -self.p_x.log_prob(self._params(z + (e - z).detach(), batch.c), batch.x)
        commitment = self.beta * (z - e).square().sum((1, 2))
        if self.training and torch.is_grad_enabled():
            self.codebook.update(z.detach().reshape(-1, self.code_dim), index.view(-1), batch.rng)
        perplexity = self.codebook.perplexity()
        terms = {"reconstruction": reconstruction, "commitment": commitment, "perplexity": perplexity}
        return Loss(reconstruction + commitment, {**terms, "codebook usage": perplexity / self.codebook_size})

    # -- verbs ------------------------------------------------------------------------------------------------------------

    def _log_prob(self, x: Tensor, c: Tensor | None, rng: Rng) -> Float[Tensor, " B"]:
        uniform = -self.n_codes * math.log(self.codebook_size)
        return self.importance_bound(x, c, rng, 1, lambda k, _: k.new_full((len(k),), uniform))

    def importance_bound(
        self,
        x: Float[Tensor, "B *shape"],
        c: Float[Tensor, "B C"] | None,
        rng: Rng,
        samples: int,
        log_prior: Callable[[Tensor, Tensor | None], Tensor],
    ) -> Float[Tensor, " B"]:
        """log p(x | k) + log P(k | c) at the encoder's codes k, which is one draw and all there is: `samples` counts for nothing."""
        del rng, samples
        parts: list[Tensor] = []
        for at in torch.arange(len(x), device=x.device).split(64):
            here = None if c is None else c[at]
            k = self._encode(x[at], here)
            parts.append(self.p_x.log_prob(self._at(k.long(), here), x[at]) + log_prior(k, here))
        return torch.cat(parts)

    def emit(self, z: Float[Tensor, "B M"], c: Float[Tensor, "B C"] | None, rng: Rng | None) -> Float[Tensor, "B *shape"]:
        """A record for each row of codes: a draw from p(x | codes), or its mode when `rng` is None."""
        return self.p_x.emit(self._at(indices(z, self.n_codes, self.codebook_size), c), rng)

    def _encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self._indices(self.vectors(x, c)).to(x.dtype)

    def _decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self.emit(z, c, None)

    def _likelihood(self, z: Tensor, c: Tensor | None) -> Distribution:
        return self.p_x.distribution(self._at(indices(z, self.n_codes, self.codebook_size), c))


def known_answers() -> Iterator[Known]:
    """Averages of a codebook against their sums, and bounds against evidence by enumeration of all codes."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    book = Codebook(4, 3, 0.9, 0.0).double()
    book.entries.copy_(z[:4])
    counts, sums = torch.full((4,), 0.25, dtype=z.dtype), 0.25 * z[:4]
    for t in range(10):
        batch = z[t : t + 30]
        index = book.nearest(batch)
        for k in range(4):
            mine = batch[index == k]
            counts[k] = 0.9 * counts[k] + 0.1 * len(mine) / 30
            sums[k] = 0.9 * sums[k] + 0.1 * mine.sum(0) / 30
        book.update(batch, index, Rng.seeded(0, z))
    off = float((book.entries - sums / counts[:, None]).abs().max())
    yield Known("vqvae: ten steps of the codebook's averages", 0.0, off, 1e-13, "rounding of ten steps on numbers of order 1")

    model = VQVAE(codebook_size=5, code_dim=2, codes=2, hidden=(8,)).build(DataSpec("points", (3,)), seed=1).double()
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    log_prior = torch.randn(5, 5, generator=generator, dtype=torch.float64).flatten().log_softmax(0).view(5, 5)
    every = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    with torch.no_grad():
        joint = torch.stack([model.p_x.log_prob(model._at(k.expand(6, 2), None), x) + log_prior[k[0], k[1]] for k in every], 1)
        bound = model.importance_bound(x, None, Rng.seeded(0, x), 1, lambda k, _: log_prior[k[:, 0].long(), k[:, 1].long()])
        codes = model._encode(x, None).long()
    evidence, own = joint.logsumexp(1), joint.gather(1, (codes[:, :1] * 5 + codes[:, 1:])).squeeze(1)
    why = "rounding of sums of some ten terms of order 10"
    yield Known("vqvae: the bound is log p(x, k(x))", 0.0, float((bound - own).detach().abs().max()), 1e-12, why)
    # log p(x) - bound = -log p(k(x) | x), the KL of the encoder's point mass to the posterior: above 0, and not by little.
    yield Known("vqvae: the bound lies below log p(x), all codes enumerated", 1.0, float((bound < evidence).all()), 0.0, "a true statement")
