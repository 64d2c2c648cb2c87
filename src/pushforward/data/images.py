"""A folder of images as records: grey or colour, any one size, sub-folders as classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

_GREY = {"1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I"}
_IGNORED = {"thumbs.db", "desktop.ini"}


def read_folder(folder: Path, size: Sequence[int] | None, skip_bad: bool) -> tuple[np.ndarray, list[str] | None, tuple[str, ...]]:
    """(images (n, H, W) or (n, H, W, 3) uint8, class of each or None, notes), in the order of the files' names.

    Headers are read first and the array is filled image by image, so that the images are in memory once. Grey stays grey only when every
    image is; transparency is dropped; 16-bit images are brought to 8 bits; the camera's rotation is applied.

    Raises
    ------
    DataError
        A file that is no image or is cut short (named; `skip_bad=True` leaves it out), images of different sizes (two are named;
        `size=(H, W)` resizes), an empty folder, or images both beside and in sub-folders.
    """
    files, labels = _files(folder)
    bad: dict[Path, str] = {}
    headers: list[tuple[Path, tuple[int, int], bool]] = []
    kept_labels: list[str] = []
    for path, label in zip(files, labels, strict=True):
        try:
            headers.append((path, *_header(path)))
            kept_labels.append(label)
        except DataError as error:
            _bad(path, error, skip_bad, bad)
    if not headers:
        raise DataError(f"No image could be read in {folder}. Give a folder of PNG, JPEG, BMP, GIF, WebP or TIFF files.")
    shape = _one_size(headers, size)
    colour = not all(grey for _, _, grey in headers)
    images = np.empty((len(headers), *shape, 3) if colour else (len(headers), *shape), dtype=np.uint8)
    classes: list[str] = []
    for (path, _, _), label in zip(headers, kept_labels, strict=True):
        try:
            images[len(classes)] = _pixels(path, shape, colour)
            classes.append(label)
        except DataError as error:
            _bad(path, error, skip_bad, bad)
    if not classes:
        raise DataError(f"No image could be read in {folder}: every file is damaged.")
    notes = (f"{len(bad)} files skipped: {', '.join(p.name for p in list(bad)[:5])}{' ...' if len(bad) > 5 else ''}",) if bad else ()
    return images[: len(classes)], classes if len(set(classes)) > 1 else None, notes


def _files(folder: Path) -> tuple[list[Path], list[str]]:
    def seen(path: Path) -> bool:
        return not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.name.lower() not in _IGNORED

    found = sorted(p for p in folder.rglob("*") if p.is_file() and seen(p))
    if not found:
        raise DataError(f"The folder {folder} holds no files. Give a folder of images, or of one sub-folder for each class.")
    below = [p for p in found if p.parent != folder]
    if below and len(below) < len(found):
        beside = next(p for p in found if p.parent == folder)
        raise DataError(
            f"{folder} holds files both beside sub-folders ({beside.name}) and in them ({below[0].relative_to(folder)}). "
            "Put every image into the sub-folder of its class, or all into one folder."
        )
    return found, [p.relative_to(folder).parts[0] if below else "" for p in found]


def _bad(path: Path, error: DataError, skip_bad: bool, bad: dict[Path, str]) -> None:
    if not skip_bad:
        raise DataError(f"{path} {error}. Remove it, or leave such files out with skip_bad=True.") from error
    bad[path] = str(error)


def _open(path: Path) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(path)
    except UnidentifiedImageError:
        raise DataError("is not an image") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot be read as an image ({error})") from None


def _header(path: Path) -> tuple[tuple[int, int], bool]:
    """((height, width), whether grey), from the header alone where it can be told."""
    with _open(path) as image:
        width, height = image.size
        try:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            grey = image.mode in _GREY
            if image.mode == "P":
                palette = np.asarray(image.convert("RGB"))
                grey = bool((palette == palette[..., :1]).all())
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise DataError(f"is damaged or cut short ({error})") from None
        if image.mode == "F":
            raise DataError("has floating-point pixels, which are no image of 8 bits")
    return ((width, height) if turned else (height, width)), grey


def _one_size(headers: list[tuple[Path, tuple[int, int], bool]], size: Sequence[int] | None) -> tuple[int, int]:
    if size is not None:
        if len(size) != 2 or min(size) < 1:
            raise DataError(f"size={size!r} is not (height, width) in pixels, such as size=(28, 20).")
        return int(size[0]), int(size[1])
    (first, shape, _), *rest = headers
    for path, other, _ in rest:
        if other != shape:
            raise DataError(
                f"Images differ in size: {first} is {shape[0]} x {shape[1]} and {path} is {other[0]} x {other[1]} (height x width). "
                f"Resize them all with size=({shape[0]}, {shape[1]})."
            )
    return shape


def _pixels(path: Path, shape: tuple[int, int], colour: bool) -> np.ndarray:
    from PIL import Image, ImageOps

    with _open(path) as image:
        try:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):
                # 16-bit grey, 0 to 65535: 257 steps to one of 8 bits.
                image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) // 257).astype(np.uint8))
            image = image.convert("RGB" if colour else "L")
            width_height = shape[1], shape[0]
            if image.size != width_height:
                image = image.resize(width_height, Image.Resampling.BOX if image.width > shape[1] else Image.Resampling.BICUBIC)
            return np.asarray(image)
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            raise DataError(f"is damaged or cut short ({error})") from None
