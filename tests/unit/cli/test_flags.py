"""Flags: one for every setting, none for secrets."""

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tritserve.cli.flags import is_secret, with_setting_flags
from tritserve.settings import Settings

seen: dict[str, Any] = {}


@pytest.fixture
def app() -> typer.Typer:
    def command(model: str | None, config: object, print_config: bool, flags: dict[str, object]) -> None:
        """Record what was parsed."""
        seen.update(model=model, config=config, print_config=print_config, flags=flags)

    made = typer.Typer()
    made.command()(with_setting_flags(command))
    seen.clear()
    return made


def test_every_setting_but_secrets_has_a_flag_with_its_variable(app: typer.Typer) -> None:
    text = CliRunner(env={"COLUMNS": "300", "TERM": "dumb"}).invoke(app, ["--help"]).output
    for name, field in Settings.model_fields.items():
        flag = "--" + name.replace("_", "-")
        if name == "model":
            continue
        assert (f"{flag} " in text) is not is_secret(field), name
        assert is_secret(field) or f"TRITSERVE_{name.upper()}" in text, name


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_only_flags_that_were_given_are_passed_on(app: typer.Typer) -> None:
    result = CliRunner().invoke(
        app, ["m", "--port", "1", "--no-prefix-cache", "--cors-origins", "a", "--cors-origins", "b"]
    )
    assert result.exit_code == 0, result.output
    assert seen["model"] == "m"
    assert seen["flags"] == {"port": "1", "prefix_cache": False, "cors_origins": ["a", "b"]}


def test_unknown_flag_is_refused_with_status_2(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["--prot", "1"])
    assert result.exit_code == 2
    assert "--port" in result.output


def test_api_key_in_the_command_line_is_refused(app: typer.Typer) -> None:
    assert CliRunner().invoke(app, ["--api-key", "secret"]).exit_code == 2
