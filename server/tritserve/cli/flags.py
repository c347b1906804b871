"""A flag for every setting, made from ``Settings`` itself, so that no list of flags can fall behind.

Values stay strings here: ``load_settings`` checks them once, with one wording for flags, variables and the file.
Secrets have no flag (command lines are public).
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin

import typer

from tritserve.settings import PREFIX, Settings, describe_setting

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic.fields import FieldInfo

_MODEL = Annotated[str | None, typer.Argument(help="Checkpoint folder, .trit file, hub id, or 'demo'.")]
_CONFIG = Annotated[Path | None, typer.Option("--config", help="TOML file of settings.", metavar="FILE")]
_PRINT = Annotated[bool, typer.Option("--print-config", help="Print the settings as TOML, secrets redacted, and stop.")]


def with_setting_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command(model, config, print_config, flags)`` a typer signature with one option per setting."""

    def run(model: str | None = None, config: Path | None = None, print_config: bool = False, **flags: object) -> None:
        given = {name: value for name, value in flags.items() if value is not None and value != []}
        command(model, config, print_config, given)

    annotations: dict[str, Any] = {"model": _MODEL, "config": _CONFIG, "print_config": _PRINT}
    defaults: dict[str, object] = {"model": None, "config": None, "print_config": False}
    for name, field in Settings.model_fields.items():
        if name != "model" and not is_secret(field):
            annotations[name] = _option(name, field)
            defaults[name] = None
    run.__annotations__ = {**annotations, "return": None}
    keyword = inspect.Parameter.KEYWORD_ONLY
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # read by typer; functions may carry one
        [inspect.Parameter(name, keyword, default=defaults[name], annotation=annotations[name]) for name in annotations]
    )
    run.__doc__ = command.__doc__
    return run


def is_secret(field: FieldInfo) -> bool:
    """Whether the setting must never be printed or stand in a command line."""
    return "SecretStr" in str(field.annotation)


def _option(name: str, field: FieldInfo) -> Any:
    flag = "--" + name.replace("_", "-")
    text = f"{(field.description or name).capitalize()}."
    if field.annotation is not bool and get_origin(field.annotation) is not tuple:
        text += f" ({describe_setting(name, field)})"
    if field.default not in (None, ()):
        text += f" Default: {_show(field.default)}."
    text += f" {PREFIX}{name.upper()}"
    if field.annotation is bool:
        return Annotated[bool | None, typer.Option(f"{flag}/--no-{flag[2:]}", help=text)]
    if get_origin(field.annotation) is tuple:
        return Annotated[list[str] | None, typer.Option(flag, help=text, metavar="NAMES")]
    return Annotated[str | None, typer.Option(flag, help=text, metavar="VALUE")]


def _show(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
