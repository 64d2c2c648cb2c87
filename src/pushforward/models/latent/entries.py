"""Records as unit features (reals as they are, bounded entries in [0, 1], categories one-hot), and the losses of outputs that imitate them.

Where `data.features` serves networks that judge, this serves those that reconstruct: a squared error on [0, 1] is the one that the papers
report, an entry that is absent is 0, and a number in [0, 1] can be taken for a probability.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...data.features import Features
from ...data.spec import DataSpec

__all__ = ["UnitFeatures"]


class UnitFeatures(nn.Module):
    """Unit features of the records of a `DataSpec`, both ways, and what a network's outputs mean for each.

    Parameters
    ----------
    loss
        Of `Autoencoder`: auto, squared or cross-entropy.
    linear
        Outputs are the features themselves, not logits of them.
    """

    def __init__(self, spec: DataSpec, loss: str, linear: bool):
        super().__init__()
        self._features = Features(spec)
        self.shape, self.dim, self.linear = self._features.shape, self._features.dim, linear
        shared = spec.support
        self.single = shared is not None and shared.name != "categories"
        # Groups of entries of one kind: ("real" | "bounded", columns (n,)) or ("categories", (n, k)), as places among the features.
        found: dict[tuple[str, bool, int], list[list[int]]] = {}
        for _, s, at in self._features.blocks:
            kind = s.name if s.name in ("real", "categories") else "bounded"
            entropy = kind != "real" and not linear and (loss == "cross-entropy" or (loss == "auto" and s.name in ("binary", "categories")))
            found.setdefault((kind, entropy, at.stop - at.start), []).append(list(range(at.start, at.stop)))
        self.kinds = [kind for kind, _, _ in found]
        self.entropy = [entropy for _, entropy, _ in found]
        if not self.single:
            for i, places in enumerate(found.values()):
                at = torch.tensor(places)
                self.register_buffer(f"at{i}", at if self.kinds[i] == "categories" else at[:, 0], persistent=False)
            order = torch.cat([torch.tensor(p).flatten() for p in found.values()]).argsort()
            self.register_buffer("order", order, persistent=False)
            halved = [s.name != "real" for _, s, at in self._features.blocks for _ in range(at.stop - at.start)]
            self.register_buffer("halved", torch.tensor(halved).float(), persistent=False)
            owner = [c for c, _, at in self._features.blocks for _ in range(at.stop - at.start)]
            self.register_buffer("owner", torch.tensor(owner), persistent=False)
        self.columns = self.dim if self.single else len(self._features.blocks)
        self.top = 1.0 if shared is None or shared.size is None else shared.size - 1.0

    def encode(self, x: Float[Tensor, "B *shape"]) -> Float[Tensor, "B *features"]:
        """Unit features of records."""
        if self.single:
            return x if self.top == 1.0 else x * (1.0 / self.top)
        f = self._features.encode(x)
        return torch.where(self._buffer("halved") > 0, 0.5 * (f + 1.0), f)

    def decode(self, u: Float[Tensor, "B *features"]) -> Float[Tensor, "B *shape"]:
        """The valid record nearest to each row of unit features."""
        if self.single:
            return self._features.decode(u if self.kinds[0] == "real" else 2.0 * u - 1.0)
        return self._features.decode(torch.where(self._buffer("halved") > 0, 2.0 * u - 1.0, u))

    def squash(self, raw: Float[Tensor, "B *features"]) -> Float[Tensor, "B *features"]:
        """A network's outputs in the range of their entries: sigmoids of bounded entries and softmax of categories, unless `linear`."""
        if self.linear:
            return raw
        if self.single:
            return raw if self.kinds[0] == "real" else raw.sigmoid()
        means = {"real": lambda t: t, "bounded": torch.sigmoid, "categories": lambda t: t.softmax(-1).flatten(1)}
        parts = [means[kind](raw[:, self._buffer(f"at{i}")]) for i, kind in enumerate(self.kinds)]
        return torch.cat(parts, 1)[:, self._buffer("order")]

    def losses(self, raw: Float[Tensor, "B *features"], u: Float[Tensor, "B *features"]) -> dict[str, Tensor]:
        """`squared error` and `cross-entropy` per record, (B,), each over the entries that it compares."""
        if self.single and not self.entropy[0]:
            return {"squared error": (self.squash(raw) - u).square().flatten(1).sum(1)}
        if self.single:
            return {"cross-entropy": F.binary_cross_entropy_with_logits(raw, u, reduction="none").flatten(1).sum(1)}
        out = self.squash(raw)
        terms: dict[str, Tensor] = {}
        for i, (kind, entropy) in enumerate(zip(self.kinds, self.entropy)):
            at = self._buffer(f"at{i}")
            if not entropy:
                name, one = "squared error", (out[:, at] - u[:, at]).square()
            elif kind == "bounded":
                name, one = "cross-entropy", F.binary_cross_entropy_with_logits(raw[:, at], u[:, at], reduction="none")
            else:
                name, one = "cross-entropy", -(u[:, at] * raw[:, at].log_softmax(-1))
            one = one.flatten(1).sum(1)
            terms[name] = terms[name] + one if name in terms else one
        return terms

    def spread(self, columns: Float[Tensor, "B D"]) -> Float[Tensor, "B *features"]:
        """One number for each entry of a record, at each of its features."""
        return columns.reshape(-1, *self.shape) if self.single else columns[:, self._buffer("owner")]

    def _buffer(self, name: str) -> Tensor:
        return getattr(self, name)
