"""README.md stays true: its commands exist, and its settings have the names and defaults that it says."""

import importlib
import re
from pathlib import Path

import typer

from tritserve.cli.main import COMMANDS
from tritserve.model.shapes import SHAPES
from tritserve.settings import Settings

README = (Path(__file__).parents[3] / "README.md").read_text()


def test_every_command_is_there_and_every_command_named_exists() -> None:
    named = set(re.findall(r"^    tritserve ([a-z]+)", README, re.MULTILINE))
    assert named == set(COMMANDS)


def test_settings_table_gives_names_and_defaults() -> None:
    table = README[README.index("| setting | default | meaning |") :].split("\n\n")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
    assert len(rows) >= 8
    for names, defaults, _ in rows:
        shown = [default.replace(",", "") if default[-1].isdigit() else default for default in defaults.split(", ")]
        for name, default in zip(re.findall(r"`(\w+)`", names), shown, strict=True):
            value = Settings.model_fields[name].default
            assert default == (f"{value:g}" if isinstance(value, float) else str(value)), name


def test_flags_variables_and_shapes_that_are_named_exist() -> None:
    modules = [importlib.import_module(f"tritserve.cli.{name}") for name in COMMANDS if name != "models"]
    ours = {flag for module in modules for param in typer.main.get_command(module.app).params for flag in param.opts}
    docker = {"--rm", "--read-only", "--tmpfs", "--cap-drop", "--security-opt"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) <= ours | docker | {"--help", "--debug"}
    for name in re.findall(r"TRITSERVE_([A-Z_]+)", README):
        assert name.lower() in Settings.model_fields
    for name in re.findall(r"--shape (\S+)", README):
        assert name in SHAPES
