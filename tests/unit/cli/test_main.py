"""The entry point: serve without being told, lazy commands, exit statuses, and no traceback for what is explained."""

import subprocess
import sys

import pytest

from tritserve.cli import main as main_module
from tritserve.cli.main import COMMANDS, main, with_default_command
from tritserve.errors import ModelFileError, SettingsError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], ["serve"]),
        (["--port", "0"], ["serve", "--port", "0"]),
        (["--debug"], ["--debug", "serve"]),
        (["--debug", "--port", "0"], ["--debug", "serve", "--port", "0"]),
        (["chat", "hello"], ["chat", "hello"]),
        (["--debug", "chat"], ["--debug", "chat"]),
        (["--help"], ["--help"]),
        (["-h"], ["-h"]),
        (["--version"], ["--version"]),
    ],
)
def test_serve_is_what_is_meant_where_no_command_is_named(given: list[str], expected: list[str]) -> None:
    assert with_default_command(given) == expected


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["tritserve", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    code = caught.value.code
    out, err = capsys.readouterr()
    return (code if isinstance(code, int) else 0 if code is None else 1), out, err


def test_help_lists_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(monkeypatch, capsys, "--help")
    assert code == 0
    for name in COMMANDS:
        assert f" {name} " in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(monkeypatch, capsys, name, "--help")
    assert code == 0
    assert f"tritserve {name} " in out


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["serv"], "'serve'"),
        (["--prot", "8001"], "--port"),
        (["serve", "--kv-cache-byte", "1"], "--kv-cache-bytes"),
        (["models", "lst"], "'list'"),
    ],
)
def test_unknown_command_or_flag_is_status_2_with_the_nearest_name(
    arguments: list[str], hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert hint in err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (SettingsError("no such setting"), 2, "tritserve: no such setting\n"),
        (ModelFileError("damaged"), 1, "tritserve: damaged\n"),
        (KeyError("x"), 1, "tritserve: unexpected KeyError: 'x' (run again with --debug before the command)\n"),
    ],
)
def test_error_is_one_line_and_a_status(
    error: Exception, code: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(main_module, "app", fail)
    assert run(monkeypatch, capsys, "doctor") == (code, "", text)
    monkeypatch.setattr(sys, "argv", ["tritserve", "--debug", "doctor"])
    with pytest.raises(type(error)):
        main()


def test_serving_imports_no_module_of_another_command() -> None:
    code = (
        "import sys; sys.argv = ['tritserve', 'serve', '--print-config']\n"
        "from tritserve.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'httpx', 'rich', 'huggingface_hub', 'fastapi', 'tritserve.native.lib'}\n"
        "print('imported:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.endswith("imported: []\n")


def test_reader_that_leaves_is_no_error_worth_a_word() -> None:
    command = [sys.executable, "-m", "tritserve", "serve", "--print-config"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        if process.stdout is None or process.stderr is None:
            raise RuntimeError("no pipes")
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) in (0, 1)
