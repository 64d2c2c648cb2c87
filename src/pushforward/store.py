"""Run folders: JSON and safetensors, written atomically, checked on reading, never executed.

A run folder holds

==================== ===========================================================================
config.json          the model's name and hyperparameters, the training settings, versions
data.json            schema, scaling, source and fingerprint of the data
model.safetensors    the fitted weights (absent until training has finished)
history.jsonl        one JSON line per logged step and per validation
checkpoint/          `last.safetensors`: everything that `resume` needs, in one file
README.md            the model card
samples.png          what it draws
==================== ===========================================================================

Every file carries its own SHA-256 (JSON under `"sha256"`, safetensors in its metadata), so that a flipped byte is
found and named. A file is replaced by writing a neighbour, flushing it to disk and renaming it: a crash or a full disk leaves the old one.
"""

import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import RunError

FORMAT = 1
"""The version of the layout; a folder with a higher one is refused, a lower one is still read."""


# -- files ----------------------------------------------------------------------------------------------------------------


def atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then put it in its place in one step."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        write(draft)
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        cause = "the disk is full" if full else str(error)
        remedy = "Free some space and run `pushforward resume` on the folder." if full else "Check that the folder is writable."
        raise RunError(f"Could not write {path}: {cause}. What was there before is unharmed. {remedy}") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its own checksum, atomically."""
    value = {**value, "format": FORMAT}
    text = json.dumps({**value, "sha256": _sum_json(value)}, indent=2, ensure_ascii=False, allow_nan=False)
    atomic(path, lambda draft: draft.write_text(text + "\n", encoding="utf-8") and None)


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote. Raises `RunError` when it is missing, damaged, or from a newer version."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing: this is not a complete run folder. Restore the file, or fit again.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{path} is damaged ({error}). Restore it from a copy, or fit again.") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} does not hold a JSON object. Restore it from a copy, or fit again.")
    found = value.get("format", 0)
    if isinstance(found, int) and found > FORMAT:
        raise RunError(f"{path} has format {found}; this version of pushforward reads up to {FORMAT}. Upgrade pushforward.")
    expected = value.pop("sha256", None)
    if expected != _sum_json(value):
        raise RunError(
            f"{path} does not match its checksum: a byte was changed since it was written. Restore it from a copy, or fit again."
        )
    return value


def _sum_json(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> None:
    """Write named tensors and JSON metadata as one safetensors file with its own checksum, atomically."""
    # Tied weights share storage, which the format refuses: each gets its own copy.
    whole = {name: t.detach().to("cpu").contiguous().clone() for name, t in tensors.items()}
    head: dict[str, Any] = {"format": FORMAT, "meta": dict(meta or {})}
    head["sha256"] = _sum_tensors(whole, head)
    # One entry, as the order of several is not fixed: equal tensors make equal files.
    atomic(path, lambda draft: save_file(whole, draft, {"pushforward": json.dumps(head, sort_keys=True)}))


def read_tensors(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote: (tensors, metadata). Raises `RunError` when it is missing, damaged or no safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            head = json.loads((file.metadata() or {}).get("pushforward", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError as error:
        raise RunError(
            f"{path} is missing: the run has not finished, or the file was removed. Try `pushforward resume` on the folder."
        ) from error
    except (SafetensorError, ValueError, OSError) as error:
        raise RunError(f"{path} is damaged or no safetensors file ({error}). Restore it from a copy, or fit again.") from error
    if head.get("format", 0) > FORMAT:
        raise RunError(f"{path} has format {head['format']}; this version of pushforward reads up to {FORMAT}. Upgrade pushforward.")
    if head.pop("sha256", None) != _sum_tensors(tensors, head):
        raise RunError(
            f"{path} does not match its checksum: a byte was changed since it was written. Restore it from a copy, or fit again."
        )
    return {name: t.to(device) for name, t in tensors.items()}, head["meta"]


def _sum_tensors(tensors: Mapping[str, Tensor], head: Mapping[str, Any]) -> str:
    total = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for name in sorted(tensors):
        t = tensors[name]
        total.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        total.update(t.contiguous().flatten().view(torch.uint8).numpy().data if t.numel() else b"")
    return total.hexdigest()


def versions() -> dict[str, str]:
    """The versions that a figure depends on."""
    found = {"python": platform.python_version()}
    for name in ("pushforward", "torch", "numpy", "lightning-fabric", "scikit-learn"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


# -- the folder ------------------------------------------------------------------------------------------------------------


class Run:
    """A run folder, new (`create`) or there already (`open`)."""

    def __init__(self, path: Path, config: dict[str, Any], data: dict[str, Any]):
        self.path, self.config, self.data = path, config, data

    @classmethod
    def create(cls, path: str | Path, model: Mapping[str, Any], data: Mapping[str, Any], training: Mapping[str, Any]) -> "Run":
        """Make the folder whole or not at all. Raises `RunError` when something is there already."""
        path = Path(path).expanduser()
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            what = "holds another run" if (path / "config.json").exists() else "exists and is not empty"
            raise RunError(f"{path} {what}. Choose another --out, or continue that run with `pushforward resume {path}`.")
        config = {**model, "training": dict(training), "versions": versions(), "created": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
        try:
            (draft / "checkpoint").mkdir(parents=True)
            write_json(draft / "config.json", config)
            write_json(draft / "data.json", data)
            os.replace(draft, path)
        except OSError as error:
            if isinstance(error, RunError):
                raise
            raise RunError(f"Could not make the run folder {path}: {error}. Choose another --out.") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return cls(path, config, dict(data))

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Read an existing folder's descriptions. Raises `RunError` when it is none, damaged or too new."""
        path = Path(path).expanduser()
        if path.is_file():
            raise RunError(
                f"{path} is a file, not a run folder. pushforward reads only its own folders of JSON and safetensors: "
                "pickles and .pt files can execute code and are never opened."
            )
        if not path.is_dir():
            raise RunError(f"There is no run folder {path}. `pushforward fit MODEL --data DATA --out {path}` makes one.")
        config = read_json(path / "config.json")
        for key in ("model", "config", "training"):
            if key not in config:
                raise RunError(f"{path / 'config.json'} has no {key!r}: it is not a model's configuration. Restore it, or fit again.")
        return cls(path, config, read_json(path / "data.json"))

    # weights

    def write_model(self, state: Mapping[str, Tensor]) -> None:
        write_tensors(self.path / "model.safetensors", state)

    def read_model(self, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        return read_tensors(self.path / "model.safetensors", device)[0]

    @property
    def finished(self) -> bool:
        return (self.path / "model.safetensors").exists()

    # checkpoints

    @property
    def _last(self) -> Path:
        return self.path / "checkpoint" / "last.safetensors"

    def write_checkpoint(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        self._last.parent.mkdir(exist_ok=True)
        write_tensors(self._last, tensors, meta)

    def read_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """(tensors, metadata) of the last checkpoint, or None when training had not got so far."""
        return read_tensors(self._last) if self._last.exists() else None

    # history

    def log(self, rows: list[dict[str, Any]]) -> None:
        """Append rows to history.jsonl; a row that JSON cannot hold (NaN) is written as null."""
        with (self.path / "history.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({k: _finite(v) for k, v in row.items()}) + "\n" for row in rows)

    def history(self) -> list[dict[str, Any]]:
        """The rows of history.jsonl; a last line cut short by a crash is left out."""
        return list(_rows(self.path / "history.jsonl"))

    def rewind(self, step: int) -> None:
        """Forget what was logged after `step`: those steps are about to be run again."""
        kept = [row for row in self.history() if row.get("step", 0) <= step]
        atomic(self.path / "history.jsonl", lambda p: p.write_text("".join(json.dumps(r) + "\n" for r in kept)) and None)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                yield json.loads(line)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not (abs(value) < float("inf")) else value


def rank_zero() -> bool:
    """Whether this process is the one that writes, when several train together."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def say(text: str) -> None:
    """A line for the person at the terminal, on stderr so that output can be piped."""
    print(text, file=sys.stderr, flush=True)
