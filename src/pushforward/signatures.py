"""What a signature and its docstring say: the one source of flags, forms and documentation pages.

Hyperparameters are `int`, `float`, `bool`, `str`, `Literal[...]`, `tuple[int, ...]`, unions of these with None, a `Model`
(named by its catalog name) or a network (given in Python only).
"""

import ast
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, Union

from .errors import ConfigError, nearest

REQUIRED: Any = inspect.Parameter.empty
"""The default of a parameter that has none."""


@dataclass(frozen=True)
class Field:
    """One parameter: what it is called, what it may be, what it is when not given, and what it means."""

    name: str
    annotation: Any
    default: Any
    help: str

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @property
    def flag(self) -> str:
        """`latent_dim` as `--latent-dim`."""
        return "--" + self.name.replace("_", "-")

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of a `Literal`, in order; empty for other types."""
        return tuple(v for part in members(self.annotation) if typing.get_origin(part) is Literal for v in typing.get_args(part))

    @property
    def is_bool(self) -> bool:
        return self.annotation is bool

    @property
    def is_list(self) -> bool:
        """Whether many values may follow one flag (a sequence of any length)."""
        return any(is_sequence(part) for part in members(self.annotation))

    @property
    def textual(self) -> bool:
        """Whether a value can be written as text (a network that is passed in cannot)."""
        return any(kind(part) not in ("", "none") for part in members(self.annotation))

    @property
    def placeholder(self) -> str:
        """The type as help shows it: `INT`, `none|FLOAT`, `gaussian|bernoulli`."""
        names = [kind(part) for part in members(self.annotation)]
        # None is said by the default; a name of a thing swallows plain text.
        shown = [n for n in dict.fromkeys(names) if n and (n != "none" or self.default is not None)]
        return "|".join(shown) or "VALUE"

    def parse(self, text: str) -> Any:
        """The value that `text` writes. Raises `ConfigError` naming the parameter and what it may be."""
        wanted = members(self.annotation)
        for part in sorted(wanted, key=_rank):
            try:
                return _parse(part, text)
            except ValueError:
                continue
        hint = nearest(text, map(str, self.choices)) if self.choices else ""
        raise ConfigError(f"{self.flag} cannot be {text!r}; it takes {self.placeholder}.{hint}")


# -- types ----------------------------------------------------------------------------------------------------------------


def members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union (of one, when it is none)."""
    if typing.get_origin(annotation) is typing.Annotated:
        return members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return tuple(m for part in typing.get_args(annotation) for m in members(part))
    return (annotation,)


def is_sequence(part: Any) -> bool:
    return part in (list, tuple, Sequence) or typing.get_origin(part) in (list, tuple, Sequence)


def _is_model(part: Any) -> bool:
    return isinstance(part, type) and hasattr(part, "hyperparameters")


def kind(part: Any) -> str:
    """A type as help shows it; empty for one that no text can write."""
    if part is None or part is type(None):
        return "none"
    if typing.get_origin(part) is Literal:
        return "|".join("none" if v is None else str(v) for v in typing.get_args(part))
    if is_sequence(part):
        inner = [a for a in typing.get_args(part) if a is not Ellipsis]
        return ",".join(dict.fromkeys("|".join(filter(None, map(kind, members(a)))) for a in inner)) + ",..." if inner else "VALUE,..."
    if _is_model(part):
        return "MODEL"
    names = {int: "INT", float: "FLOAT", str: "TEXT", bool: "true|false"}
    if part in names:
        return names[part]
    if getattr(part, "__name__", "") == "Path":
        return "PATH"
    return "TEXT" if part in (Any, REQUIRED, object) else ""


def _rank(part: Any) -> int:
    """The order of trying: what few texts can write comes first, plain text last."""
    if part is None or part is type(None):
        return 0
    if typing.get_origin(part) is Literal:
        return 1
    order = {bool: 2, int: 3, float: 4}
    return order.get(part, 6 if part is str or part is Any else 5)


def _parse(part: Any, text: str) -> Any:
    if part is None or part is type(None):
        if text.lower() in ("none", ""):
            return None
        raise ValueError(text)
    if typing.get_origin(part) is Literal:
        for value in typing.get_args(part):
            if text == str(value):
                return value
        raise ValueError(text)
    if part is bool:
        if text.lower() in ("true", "yes", "1", "false", "no", "0"):
            return text.lower() in ("true", "yes", "1")
        raise ValueError(text)
    if part in (int, float):
        return part(text)
    if is_sequence(part):
        inner = [a for a in typing.get_args(part) if a is not Ellipsis] or [str]
        if any(_is_model(a) for i in inner for a in members(i)):
            return models_from_text(text)
        pieces = [p for p in re.split(r"[,\s]+", text.strip("()[] ")) if p]
        slots = inner if len(inner) == len(pieces) else inner[:1] * len(pieces)
        return tuple(_parse_any(a, p) for a, p in zip(slots, pieces))
    if _is_model(part):
        return model_from_text(text)
    return text


def _parse_any(annotation: Any, text: str) -> Any:
    for part in sorted(members(annotation), key=_rank):
        try:
            return _parse(part, text)
        except ValueError:
            continue
    raise ValueError(text)


def model_from_text(text: str) -> Any:
    """`gan` or `gan:loss=wasserstein:hidden=256,256` as an unfitted model with these hyperparameters."""
    from .models import create

    name, *settings = text.split(":")
    model = type(create(name))
    options = {f.name: f for f in parameters(model)}
    given = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        key = key.strip("- ").replace("-", "_")
        if not equals:
            raise ConfigError(f"{text!r}: write hyperparameters as NAME=VALUE, for example {name}:{next(iter(options), 'x')}=...")
        if key not in options:
            raise ConfigError(f"{name} has no hyperparameter {key!r}.{nearest(key, options)}")
        given[key] = options[key].parse(value)
    return model(**given)


def models_from_text(text: str) -> list[Any]:
    """`vae,gan:hidden=256,256,ddpm` as models: a comma before a name begins the next one, before a number it goes on with a tuple."""
    pieces: list[str] = []
    for piece in filter(None, re.split(r"[,\s]+", text)):
        if pieces and not piece[0].isalpha():
            pieces[-1] += "," + piece
        else:
            pieces.append(piece)
    return [model_from_text(piece) for piece in pieces]


# -- docstrings -----------------------------------------------------------------------------------------------------------


def summary(documented: Any) -> str:
    """The first sentence or line of a docstring, on one line."""
    first = (inspect.getdoc(documented) or "").split("\n\n")[0]
    return " ".join(first.split())


def section(doc: str, title: str) -> str:
    """The body of a numpydoc section, dedented; empty when there is none."""
    match = re.search(rf"^{title}\n-{{3,}}\n(.*?)(?=^\S[^\n]*\n-{{3,}}\n|\Z)", inspect.cleandoc(doc) + "\n", re.M | re.S)
    return match[1].rstrip() if match else ""


def parameter_docs(doc: str) -> dict[str, str]:
    """Name -> text of each entry in a docstring's Parameters section."""
    found: dict[str, str] = {}
    for title in ("Parameters", "Other Parameters"):
        for entry in re.split(r"\n(?=\S)", section(doc, title)):
            head, _, body = entry.partition("\n")
            for name in re.split(r"\s*,\s*", head.split(" : ")[0].strip()):
                if name:
                    found[name.lstrip("*")] = " ".join(textwrap.dedent(body).split())
    return found


def field_docs(cls: type) -> dict[str, str]:
    """Field -> the string literal that follows it in the class body."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, following in zip(body.body, body.body[1:]):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant) and isinstance(following.value.value, str):
                found[statement.target.id] = " ".join(inspect.cleandoc(following.value.value).split())
    return found


# -- signatures -----------------------------------------------------------------------------------------------------------


def _hints(documented: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(documented)
    except (NameError, TypeError):  # a name that only type checkers see
        return {}


def parameters(documented: Callable[..., Any]) -> list[Field]:
    """The parameters of a function, a class's constructor, or a dataclass, with their help; `*args` and `**kwargs` left out."""
    if isinstance(documented, type) and hasattr(documented, "__dataclass_fields__"):
        docs, hints = field_docs(documented), _hints(documented)
        return [
            Field(f.name, hints.get(f.name, f.type), REQUIRED if f.default is MISSING else f.default, docs.get(f.name, ""))
            for f in fields(documented)  # pyright: ignore[reportArgumentType]
        ]
    function = documented.__init__ if isinstance(documented, type) else documented
    docs = parameter_docs((documented.__doc__ or "") + "")
    if isinstance(documented, type):
        docs = {**parameter_docs(function.__doc__ or ""), **docs}
    hints = _hints(function)
    return [
        Field(p.name, hints.get(p.name, p.annotation), p.default, docs.get(p.name, ""))
        for p in inspect.signature(function).parameters.values()
        if p.name != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]


def options(function: Callable[..., Any]) -> list[Field]:
    """The keyword-only parameters of a function, such as the options of a sampler."""
    only = {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
    return [f for f in parameters(function) if f.name in only]


def written(value: Any) -> str:
    """A default as a person would write it."""
    if value is None:
        return "none"
    if isinstance(value, (list, tuple)):
        return ",".join(map(written, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
