"""The command line: every command calls the library, and its flags follow from the library's signatures and docstrings.

Importing this module costs no more than click; a command imports what it needs when it runs.
"""

import sys
from typing import Any

import click

from .._version import __version__
from ..errors import ConfigError, PushforwardError, nearest
from .derive import explain
from .likeness import ALL  # which registers its own after those of `commands` and `records`

__all__ = ["app", "main"]


class App(click.Group):
    """The group of all commands, which turns errors into one clear message and an exit code."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise click.UsageError(f"pushforward has no command {args[0]!r}.{nearest(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order in which one needs them

    def main(  # pyright: ignore[reportIncompatibleMethodOverride] (click overloads it by standalone_mode, which is ours to set)
        self, args: Any = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Run one command line and exit: 0 done, 1 failed, 2 misused, 130 interrupted."""
        args = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in args
        extra["standalone_mode"] = False
        try:
            code = super().main([a for a in args if a != "--debug"], prog_name or "pushforward", **extra)
            sys.exit(code if isinstance(code, int) else 0)
        except click.Abort as stop:
            fail(str(stop.__cause__ or "") or "Interrupted.", 130)
        except KeyboardInterrupt:
            fail("Interrupted.", 130)
        except BrokenPipeError:  # the reader (head, less) has seen enough
            sys.stderr.close()
            sys.exit(0)
        except click.UsageError as error:
            if debug:
                raise
            fail(explain(error), 2)
        except click.ClickException as error:
            fail(error.format_message(), 1)
        except (PushforwardError, MemoryError, OSError) as error:
            if debug:
                raise
            fail(f"{error}" or type(error).__name__, 2 if isinstance(error, ConfigError) else 1)


def fail(message: str, code: int) -> None:
    """Say why on stderr, and exit."""
    click.echo(message if code == 130 else f"error: {message}", err=True)
    sys.exit(code)


app = App(
    name="pushforward",
    commands={command.name or "": command for command in ALL},
    help="Fit every family of deep generative model to your own data, and compare them honestly.",
    epilog="`pushforward COMMAND --help` tells more. With --debug, errors show where they arose.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
app.params.append(
    click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        help="Show the version.",
        callback=lambda ctx, _, value: (click.echo(f"pushforward {__version__}"), ctx.exit()) if value else None,
    )
)


def main() -> None:
    """The entry point of the `pushforward` script."""
    app.main()
