"""Which feature spaces a data set has, and making them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch

from ..data import Data, DataSpec
from ..errors import ConfigError, DataError, Unsupported, nearest
from .learned import learned
from .space import FIT_RECORDS, FeatureSpace, pick

__all__ = ["KEYS", "inception_space", "spaces"]

KEYS = ("raw", "pca", "random-conv", "learned", "inception")


def spaces(
    data: Data,
    *,
    which: Iterable[str] | str | None = None,
    seed: int = 0,
    cache: str | Path | Literal[False] | None = None,
    inception: str | Path | None = None,
) -> dict[str, FeatureSpace]:
    """The feature spaces of a data set by key; the first is the one in which headline figures are given.

    For images the learned space leads. A generator is asked for the right *things*, whole, in the right proportions, and a network that
    learnt to tell these things apart, and whole ones from damaged ones, moves when one is missing or malformed. Distances between pixels
    are ruled by brightness, stroke width and position: on MNIST, blurring every sample *raises* precision to 1 there, as blurred images
    lie between the sharp ones, and takes it from 0.93 to 0.05 in the learned space; two missing digits multiply the Fréchet distance by
    1.4 among pixels and by 5.7 in the learned space (`results/feature_spaces.json`). Random filters and pixels stay beside it, for what
    training may have taught it to overlook.

    Parameters
    ----------
    data
        The data set; its labels, where it has classes, train the `learned` space of images.
    which
        Keys among raw, pca, random-conv, learned, inception. None: learned, random-conv and pca for images (and inception where its file
        is given), raw for the rest.
    seed
        Of the records used, of random filters, and of training. The same data and seed give the same features, bit for bit on one machine.
    cache
        Folder in which learned spaces are kept, by the data's fingerprint; None for `$PUSHFORWARD_CACHE` or the user's cache folder, False
        for nowhere. A cache that cannot be read or written costs time, never an error.
    inception
        The user's safetensors file of Inception weights, see `inception_space`.

    Raises
    ------
    ConfigError
        An unknown key, `which` with inception but no file, or a space that these records do not have.
    DataError
        There is no training record.
    """
    spec = data.schema.spec
    image = spec.kind == "image"
    if which is None:
        which = [*(("learned", "random-conv", "pca") if image else ("raw",)), *(("inception",) if image and inception else ())]
    which = [which] if isinstance(which, str) else list(which)
    if not len(data.train):
        raise DataError("There is no training record to make features from. Leave load_data a training share.")
    found: dict[str, FeatureSpace] = {}
    for key in which:
        if key not in KEYS:
            raise ConfigError(f"There is no feature space {key!r}.{nearest(key, KEYS)}")
        if not image and key in ("random-conv", "learned", "inception"):
            raise ConfigError(f"The feature space {key!r} is for images; these records are {spec.kind}. Use 'raw' or 'pca'.")
        if key in ("raw", "pca"):
            found[key] = FeatureSpace.fit(pick(data.train, FIT_RECORDS, seed).tensor(torch.float64), spec, key)
        elif key == "random-conv":
            found[key] = _random_conv(data, seed)
        elif key == "learned":
            found[key] = learned(data, seed, cache)
        elif inception is None:
            raise ConfigError("The feature space 'inception' needs the user's file: spaces(data, inception='inception.safetensors').")
        else:
            found[key] = inception_space(inception, spec)
    return found


def _random_conv(data: Data, seed: int) -> FeatureSpace:
    spec = data.schema.spec
    net = {"kind": "random-conv", "channels": 32, "seed": seed}
    plain = FeatureSpace("random-conv", "", spec, torch.zeros(1), torch.ones(1), net)
    train = pick(data.train, 4000, seed).tensor()
    f = torch.cat([plain.raw(x) for x in train.split(plain.batch)])
    mean, sd = f.mean(0), f.std(0, correction=0)
    # A filter that these records leave silent must not shout at the first sample that touches it.
    sd = sd.clamp_min(1e-2 * float(sd.square().mean().sqrt()) or 1.0)
    name = f"{len(mean)} features of a fixed random convolutional network (seed {seed})"
    weights = plain.net.state_dict()
    return FeatureSpace("random-conv", name, spec, mean, 1 / sd, net, weights, details={"seed": seed})


def inception_space(path: str | Path, spec: DataSpec) -> FeatureSpace:
    """The 2,048 features of Inception v3 from the user's own *.safetensors file, for images of this `DataSpec`.

    The file holds the tensors of torch-fidelity's `weights-inception-2015-12-05-6726825d.pth` (or pytorch-fid's
    `pt_inception-2015-12-05-6726825d.pth`) by name. Records become RGB images of whole numbers 0 to 255, grey ones with three equal
    channels. Fréchet distances in this space are FIDs.

    Raises
    ------
    DataError
        The file is missing, a pickle (the message says how to convert it), damaged, or holds other tensors.
    Unsupported
        The records are no images with 1 or 3 channels on a bounded support.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ..nn.inception import InceptionV3

    path = Path(path).expanduser()
    if spec.kind != "image" or spec.shape[0] not in (1, 3) or spec.support is None or spec.support.name in ("real", "categories"):
        raise Unsupported(
            f"Inception sees images with 1 or 3 channels and values from 0 to white; these records are {spec}. "
            "Load them as bytes, or with support='unit'; or use another feature space."
        )
    if path.suffix in (".pth", ".pt", ".pkl", ".ckpt", ".bin"):
        raise DataError(
            f"{path} is a pickle, which can execute code and is never opened here. Convert it once, where you trust it:\n"
            f'  python -c "import torch; from safetensors.torch import save_file; '
            f"s = torch.load('{path}', map_location='cpu', weights_only=True); "
            f"save_file({{k: v.contiguous() for k, v in s.items()}}, '{path.with_suffix('.safetensors')}')\""
        )
    try:
        given = load_file(path)
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"There is no file {path}. Give the safetensors file of Inception weights that you converted.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path} is no safetensors file, or damaged ({error}). Convert the weights again.") from error
    wanted = InceptionV3().state_dict()
    optional = {k for k in wanted if k.endswith("num_batches_tracked")}
    missing = [k for k in wanted if k not in optional and (k not in given or given[k].shape != wanted[k].shape)]
    if missing:
        raise DataError(
            f"{path} holds other weights: {len(missing)} of {len(wanted) - len(optional)} tensors are missing or have another shape, "
            f"such as {missing[0]!r}. The file must hold those of 'pt_inception-2015-12-05' by name (torchvision's are others)."
        )
    weights = {k: given[k].float() if k in given and k not in optional else v for k, v in wanted.items()}
    return FeatureSpace(
        "inception",
        "Inception v3 (2,048 features of pool3)",
        spec,
        torch.zeros(2048),
        torch.ones(2048),
        {"kind": "inception"},
        weights,
        details={"file": path.name},
    )
