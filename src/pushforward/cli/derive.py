"""From signatures to flags: a thin layer between `pushforward.signatures` and click.

A `Derived` command looks at its arguments first (which model? which run?), asks the library for the fields that apply, and offers each as a
flag under the group it came from. Nothing here knows any model, setting or option by name.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from ..errors import ConfigError, nearest
from ..signatures import Field, written

Groups = Sequence[tuple[str, Iterable[Field]]]
"""Groups of fields in the order in which help shows them. Where two share a name, the later group keeps it bare."""


class FieldType(click.ParamType):
    """A value of a field, parsed by its annotation."""

    def __init__(self, field: Field):
        self.field, self.name = field, field.placeholder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.field.parse(value)
        except ConfigError as error:
            raise click.UsageError(str(error), ctx) from error


class Flag(click.Option):
    """The flag of one field, remembering its group."""

    def __init__(self, field: Field, group: str, flag: str):
        self.field, self.group = field, group
        shown = field.help
        if not field.required and field.default is not None:
            shown = f"{shown} [{written(field.default)}]".strip()
        names = [f"{flag}/--no-{flag[2:]}"] if field.is_bool else [flag]
        kind = {} if field.is_bool else {"type": FieldType(field), "metavar": field.placeholder}
        super().__init__([f"{group}__{field.name}", *names], help=shown, required=field.required, **kind)


def flags(groups: Groups, taken: Iterable[str] = ()) -> list[click.Parameter]:
    """A flag for every field that text can set; one whose bare name is taken is prefixed with its group's name."""
    sections: list[list[click.Parameter]] = []
    taken = set(taken)
    for group, members in reversed(groups):
        usable = [field for field in members if field.textual]
        names = [f.flag if f.flag not in taken else f"--{group.lower()}-{f.flag[2:]}" for f in usable]
        taken.update(names)
        sections.append([Flag(field, group, name) for field, name in zip(usable, names)])
    return [flag for section in reversed(sections) for flag in section]


def given(ctx: click.Context, group: str) -> dict[str, Any]:
    """What the user set of a group: name -> value, leaving out all that was not said."""
    said = {}
    for param in ctx.command.params:
        if isinstance(param, Flag) and param.group == group:
            if ctx.get_parameter_source(param.name or "") == click.core.ParameterSource.COMMANDLINE:
                said[param.field.name] = ctx.params[param.name or ""]
    return said


def with_defaults(members: Iterable[Field], values: Any) -> list[Field]:
    """The fields with the defaults that `values` (an instance) has for them."""
    return [dataclasses.replace(f, default=getattr(values, f.name, f.default)) for f in members]


class Derived(click.Command):
    """A command whose further flags follow from its arguments. The callback gets the context and the command's own arguments only."""

    def __init__(self, *args: Any, derive: Callable[[str | None], Groups], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.derive = derive
        self.subject = ""

    def make_context(self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any) -> click.Context:
        args = list(args)
        positional = any(isinstance(p, click.Argument) for p in self.params)
        first = args[0] if positional and args and not args[0].startswith("-") else None
        if positional and first is None and args and "--help" not in args:
            metavar = next(p.human_readable_name for p in self.params if isinstance(p, click.Argument))
            raise click.UsageError(f"Give the {metavar} first: pushforward {info_name} {metavar} ...")
        own = copy.copy(self)
        own.subject = f" {first}" if first and own.name == "fit" else ""
        own.params = [*self.params, *flags(self.derive(first), [name for p in self.params for name in p.opts])]
        return click.Command.make_context(own, info_name, own._joined(args), parent, **extra)

    def _joined(self, args: list[str]) -> list[str]:
        """`--seeds 0 1 2` as `--seeds 0,1,2`, for the flags that take lists."""
        lists = {name for p in self.params if isinstance(p, Flag) and p.field.is_list for name in p.opts}
        joined: list[str] = []
        at = 0
        while at < len(args):
            joined.append(args[at])
            at += 1
            if joined[-1] in lists:
                end = at
                while end < len(args) and not (args[end].startswith("-") and not args[end][1:2].isdigit()):
                    end += 1
                joined.extend([",".join(args[at:end])] if end > at else [])
                at = end
        return joined

    def invoke(self, ctx: click.Context) -> Any:
        own = {p.name: ctx.params[p.name] for p in self.params if not isinstance(p, Flag) and p.name in ctx.params}
        assert self.callback is not None
        return self.callback(ctx, **own)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(param.group if isinstance(param, Flag) else "Options", []).append(record)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows, col_max=34)


def explain(error: click.UsageError) -> str:
    """The message of a usage error, with the nearest known flag, and where to read what there is."""
    if error.ctx is None or not isinstance(error.ctx.command, Derived):
        return error.format_message()
    return f"{_message(error)}\n(`{error.ctx.command_path}{error.ctx.command.subject} --help` lists what it takes.)"


def _message(error: click.UsageError) -> str:
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        known = [name for p in error.ctx.command.get_params(error.ctx) for name in (*p.opts, *p.secondary_opts) if name.startswith("--")]
        where = error.ctx.command_path
        return f"{where} has no option {error.option_name}.{nearest(error.option_name, known)}"
    return error.format_message()
