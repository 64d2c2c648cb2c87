"""One feature space: a fixed map from records to vectors, and how it travels to another process."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from .. import store
from ..data import DataSpec, Records
from ..data.features import Features
from ..errors import DataError, Unsupported
from ..nn.extractors import FeatureEncoder, Flat, RandomConv

__all__ = ["FIT_RECORDS", "FeatureSpace", "pick", "read_spaces", "write_spaces"]

FIT_RECORDS = 10_000
"""Training records from which the features are made at most."""
COMPONENTS = 64
PCA_SIDE = 64
"""Images with a longer side are averaged down to it before their principal components are taken."""


def pick(records: Records, n: int, seed: int) -> Records:
    """At most `n` of the records, chosen by the seed, in their order."""
    if len(records) <= n:
        return records
    return records.subset(torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))[:n].sort().values)


class FeatureSpace:
    """A fixed map from records to vectors: an affine map after a network, a record at a time.

    features(x) = (net(encode(x)) - mean) @ scale, or, with scale (F,), entry by entry. Made by `spaces`, `fit` or `from_tensors`.
    """

    def __init__(
        self,
        key: str,
        name: str,
        spec: DataSpec,
        mean: Tensor,
        scale: Tensor,
        net: Mapping[str, Any] | None = None,
        weights: Mapping[str, Tensor] | None = None,
        classes: Sequence[Any] = (),
        details: Mapping[str, Any] | None = None,
    ):
        self.key, self.name, self.spec = key, name, spec
        self.mean, self.scale = mean.double().cpu(), scale.double().cpu()
        self.dim = int(self.scale.shape[-1])
        self.network = dict(net or {"kind": "flat"})
        self.classes = tuple(classes)
        """What `classify` can answer, in the user's own values; empty for a space that names no classes."""
        self.details = dict(details or {})
        """How it was made, as JSON values: seed, seconds, the classifier's held-out accuracy ..."""
        self.net = _network(self.network, spec)
        if weights:
            self.net.load_state_dict(dict(weights))
        self.net.eval().requires_grad_(False)

    @classmethod
    def fit(cls, train: Tensor, spec: DataSpec, key: str | None = None) -> "FeatureSpace":
        """The `raw` or `pca` space of training records x (n, *shape); None takes pca for images and raw for the rest."""
        key = key or ("pca" if spec.kind == "image" else "raw")
        net = {"kind": "flat", "most": PCA_SIDE if key == "pca" and spec.kind == "image" else None}
        plain = cls(key, "", spec, torch.zeros(1), torch.ones(1), net)
        f = torch.cat([plain.raw(x) for x in train.split(plain.batch)])
        mean = f.mean(0)
        if key == "pca":
            values, vectors = torch.linalg.eigh((f - mean).T @ (f - mean) / max(1, len(f) - 1))
            values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
            share = values.cumsum(0) / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
            d = min(COMPONENTS, int((share < 0.95).sum()) + 1, len(values))
            what = "pixels" if spec.kind == "image" else "coordinates" if spec.kind == "points" else "columns"
            if spec.kind == "image" and max(spec.shape[1:]) > PCA_SIDE:
                what += f", averaged down to at most {PCA_SIDE} a side"
            name = f"{d} principal components of the {what} ({share[d - 1]:.0%} of the variance)"
            # As it is read from a file: products of other layouts may round differently.
            return cls(key, name, spec, mean, vectors[:, :d].contiguous(), net)
        if spec.kind == "image":
            return cls(key, "the pixels", spec, mean, torch.ones_like(mean), net)
        variance = (f - mean).square().mean(0)
        scale = torch.ones_like(variance)
        for _, _, at in Features(spec).blocks:
            total = variance[at].sum()
            scale[at] = total.rsqrt() if total > 0 else 1.0
        return cls(key, "standardised coordinates" if spec.kind == "points" else "standardised columns", spec, mean, scale, net)

    # -- use -----------------------------------------------------------------------------------------------------------

    @property
    def batch(self) -> int:
        """Records that pass through the network at a time: about 100 MB of activations at most."""
        if self.network["kind"] == "inception":
            return 16
        dim = self.spec.dim
        return max(1, 2**22 // dim) if self.network["kind"] == "flat" else max(1, min(512, 2**19 // dim))

    def to(self, device: torch.device | str) -> Self:
        """Run the network on that device from now on."""
        self.net.to(device)
        return self

    def raw(self, x: Tensor) -> Tensor:
        """The network's own output for one batch, before centring and scaling: (n, F) float64 on the CPU."""
        dtype = torch.float64 if self.network["kind"] == "flat" else torch.float32
        weight = next(self.net.parameters(), None)
        device = torch.device("cpu") if weight is None else weight.device
        with torch.no_grad():
            return self.net(self._encode(x.to(device, dtype))).cpu().double()

    def _encode(self, x: Tensor) -> Tensor:
        return _rgb(x, self.spec) if self.network["kind"] == "inception" else Features(self.spec).encode(x)

    def __call__(self, x: Tensor) -> Tensor:
        """Features (n, d), float64 on the CPU, of records x (n, *shape) in the values of the support, on any device.

        Raises `DataError` when the records have another shape.
        """
        self._check(x)
        parts = []
        for part in x.split(self.batch):
            f = self.raw(part) - self.mean
            parts.append(f @ self.scale if self.scale.ndim == 2 else f * self.scale)
        return torch.cat(parts) if parts else torch.empty(0, self.dim, dtype=torch.float64)

    def classify(self, x: Tensor) -> Tensor:
        """The class of every record, (n,) int64 positions in `classes`. Raises `Unsupported` for a space that was not made from labels."""
        if not self.classes:
            raise Unsupported(f"The space of {self.name} names no classes. Give the data labels and use the learned space.")
        self._check(x)
        assert isinstance(self.net, _Trunk)
        device = next(self.net.parameters()).device
        with torch.no_grad():
            found = [self.net.encoder(self._encode(p.to(device, torch.float32))).argmax(1).cpu() for p in x.split(self.batch)]
        return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)

    def _check(self, x: Tensor) -> None:
        if tuple(x.shape[1:]) != self.spec.shape:
            raise DataError(f"Records have shape {tuple(x.shape[1:])}; the space of {self.name} was made for {self.spec.shape}.")

    # -- transport -----------------------------------------------------------------------------------------------------

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, metadata): all that `from_tensors` needs, for safetensors and JSON."""
        found = {"mean": self.mean, "scale": self.scale, **{f"net.{k}": v for k, v in self.net.state_dict().items()}}
        meta = {
            "key": self.key,
            "name": self.name,
            "spec": self.spec.to_json(),
            "network": self.network,
            "classes": list(self.classes),
            "details": self.details,
        }
        return found, meta

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> "FeatureSpace":
        """The space that `tensors` described."""
        weights = {k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")}
        spec = DataSpec.from_json(meta["spec"])
        return cls(
            meta["key"], meta["name"], spec, tensors["mean"], tensors["scale"], meta["network"], weights, meta["classes"], meta["details"]
        )

    def __repr__(self) -> str:
        return f"FeatureSpace({self.key}: {self.name})"


def write_spaces(path: str | Path, found: Mapping[str, FeatureSpace]) -> None:
    """Write spaces as one safetensors file, for another process. Raises `RunError` when it cannot be written."""
    tensors, meta = {}, {}
    for key, space in found.items():
        own, meta[key] = space.tensors()
        tensors |= {f"{key}/{name}": t for name, t in own.items()}
    store.write_tensors(Path(path), tensors, {"spaces": meta, "order": list(found)})


def read_spaces(path: str | Path) -> dict[str, FeatureSpace]:
    """Read what `write_spaces` wrote, in its order. Raises `RunError` when it is missing or damaged."""
    tensors, meta = store.read_tensors(Path(path))
    found = {}
    for key in meta["order"]:
        own = {name.removeprefix(f"{key}/"): t for name, t in tensors.items() if name.startswith(f"{key}/")}
        found[key] = FeatureSpace.from_tensors(own, meta["spaces"][key])
    return found


# -- networks -------------------------------------------------------------------------------------------------------


class _Trunk(nn.Module):
    """A feature encoder seen from its features; the head stays for `classify`."""

    def __init__(self, encoder: FeatureEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder.features(x)


def _network(settings: Mapping[str, Any], spec: DataSpec) -> nn.Module:
    settings = dict(settings)
    kind = settings.pop("kind")
    if kind == "flat":
        return Flat(**settings)
    if kind == "random-conv":
        generator = torch.Generator().manual_seed(settings.pop("seed"))
        return RandomConv(Features(spec).shape, **settings, generator=generator).float()
    if kind == "encoder":
        # The weights are replaced by loading or by training, which seeds them.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.pop("seed"))
            return _Trunk(FeatureEncoder(Features(spec).shape, **settings)).float()
    from ..nn.inception import InceptionV3

    with torch.random.fork_rng(devices=[]):
        return InceptionV3().float()


def _rgb(x: Tensor, spec: DataSpec) -> Tensor:
    """Images in the values of the support -> (B, 3, H, W) of whole numbers 0 to 255, in floats: what an image file would hold."""
    assert spec.support is not None
    top = 1.0 if spec.support.name == "unit" else float((spec.support.size or 2) - 1)
    x = (x * (255.0 / top)).clamp(0, 255).round()
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
