"""Errors for people: every one names the cause and the remedy.

All derive from `PushforwardError` and from the built-in a caller would expect, so both
``except PushforwardError`` and ``except ValueError`` work.
"""

import difflib
from collections.abc import Iterable


class PushforwardError(Exception):
    """The root of every error that this library raises on purpose."""


class DataError(PushforwardError, ValueError):
    """Records cannot be read or do not fit: names the file, row, column or shape, and the remedy."""


class ConfigError(PushforwardError, ValueError):
    """An unknown model, hyperparameter, option or an impossible combination of them."""


class Unsupported(PushforwardError, NotImplementedError):
    """A verb that this family cannot honestly offer: says why, and what to use instead."""


class NotFitted(PushforwardError, RuntimeError):
    """A verb was called before `fit` (or `build`)."""


class RunError(PushforwardError, OSError):
    """A run folder is missing, damaged, too new, or in the way."""


class Diverged(PushforwardError, ArithmeticError):
    """Training met a non-finite loss: names the term, the step and the remedy."""


def nearest(name: str, options: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the closest of `options`, or a list of them when none is close."""
    options = sorted(options)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(options)}." if options else ""
