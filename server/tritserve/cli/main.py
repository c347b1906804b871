"""The ``tritserve`` command: finds the command's module, and turns expected errors into one line and an exit status."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tritserve.errors import ServerError, SettingsError

COMMANDS = ("serve", "pull", "chat", "models", "inspect", "doctor", "bench")
"""Each is a module of this package with an ``app`` of the same name."""
_GLOBAL_FLAGS = ("--debug",)
_FLAGS_OF_ITS_OWN = ("-h", "--help", "--version")


class _Commands(Mapping[str, Any]):
    """The commands by name. A module is imported when its command is asked for: serving need not wait for numpy, httpx and rich."""

    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        command = typer.main.get_command(importlib.import_module(f"tritserve.cli.{name}").app)
        command.name = name
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Group(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands()  # type: ignore[assignment]  # read only: nothing here adds a command

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_default_command(args))


def with_default_command(arguments: list[str]) -> list[str]:
    """Return the arguments with ``serve`` put in where no command is named: ``tritserve --port 8001`` serves the demo model."""
    index = next((i for i, argument in enumerate(arguments) if argument not in _GLOBAL_FLAGS), len(arguments))
    rest = arguments[index:]
    if not rest or (rest[0].startswith("-") and rest[0] not in _FLAGS_OF_ITS_OWN):
        return [*arguments[:index], "serve", *rest]
    return arguments


app = typer.Typer(
    cls=_Group,
    name="tritserve",
    help="Serve ternary (1.58-bit) language models on CPUs over the OpenAI API. Without a command: serve the embedded demo model.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tritserve {version('tritserve')}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the flags that stand before a command; ``main`` looks at --debug itself."""


def main() -> None:
    """Run the command line. Exits 0 when done, 1 on an error that is explained, 2 on a wrong command or setting."""
    try:
        app()
    except BrokenPipeError:
        # The reader of our output left (`tritserve ... | head`): nothing more can be said, and the exit must not say it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if _wants_traceback(sys.argv[1:]):
            raise
        if not isinstance(error, ServerError):
            print(
                f"tritserve: unexpected {type(error).__name__}: {error} (run again with --debug before the command)",
                file=sys.stderr,
            )
            sys.exit(1)
        print(f"tritserve: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SettingsError) else 1)


def _wants_traceback(arguments: list[str]) -> bool:
    return bool(arguments) and arguments[0] == "--debug"
