"""The ``tritserve`` command: collects the commands, and turns expected errors into one line and an exit status."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from tritserve.cli import bench, chat, doctor, inspect, models, pull, serve
from tritserve.cli.flags import with_setting_flags
from tritserve.errors import ServerError, SettingsError

app = typer.Typer(
    name="tritserve",
    help="Serve ternary (1.58-bit) language models on CPUs over the OpenAI API. Without a command: the embedded demo model.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(with_setting_flags(serve.serve))
app.command("pull")(pull.pull)
app.command("chat")(chat.chat)
app.command("inspect")(inspect.inspect)
app.command("doctor")(doctor.doctor)
app.command("bench")(bench.bench)
app.add_typer(models.app, name="models")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tritserve {version('tritserve')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        serve.serve(None, None, False, {})


def main() -> None:
    """Run the command line. Exits 0 when done, 1 on an error that is explained, 2 on a wrong command or setting."""
    try:
        app()
    except ServerError as error:
        if "--debug" in sys.argv[1:]:
            raise
        print(f"tritserve: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SettingsError) else 1)
    except BrokenPipeError:
        # The reader of our output left (`tritserve ... | head`): nothing more can be said, and the exit must not say it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if "--debug" in sys.argv[1:]:
            raise
        logging.getLogger(__name__).debug("unexpected error", exc_info=True)
        print(
            f"tritserve: unexpected {type(error).__name__}: {error} (run again with --debug before the command)",
            file=sys.stderr,
        )
        sys.exit(1)
