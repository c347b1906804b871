"""Settings: order, errors that name their source, service links, redaction, and where packed models go."""

import os
import stat
import tomllib
from pathlib import Path

import pytest
from pydantic import SecretStr

from tritserve.errors import SettingsError
from tritserve.settings import (
    Settings,
    hub_cache_dir,
    load_settings,
    print_settings,
    readable_cache_dir,
    require_key_beyond_loopback,
    worker_environment,
    writable_cache_dir,
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("TRITSERVE_"):
            monkeypatch.delenv(name)


def test_flag_beats_variable_beats_file_beats_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("port = 1\nthreads = 1\nmax_n = 3\n")
    monkeypatch.setenv("TRITSERVE_PORT", "2")
    monkeypatch.setenv("TRITSERVE_THREADS", "2")
    settings = load_settings({"port": "3", "workers": None}, config).settings
    assert (settings.port, settings.threads, settings.max_n, settings.workers) == (3, 2, 3, 0)


def test_config_variable_names_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("cors_origins = ['https://a', 'https://b']")
    monkeypatch.setenv("TRITSERVE_CONFIG", str(tmp_path / "c.toml"))
    assert load_settings({}).settings.cors_origins == ("https://a", "https://b")


def test_lists_are_separated_by_commas_or_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITSERVE_ALLOWED_HOSTS", "a.example, b.example,")
    settings = load_settings({"served_model_name": ["x,y", "z"]}).settings
    assert settings.allowed_hosts == ("a.example", "b.example")
    assert settings.served_model_name == ("x", "y", "z")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PORT", "70000", "TRITSERVE_PORT: '70000' is not allowed; it must be a whole number, 0..65535."),
        ("MAX_N", "0", "TRITSERVE_MAX_N: '0' is not allowed; it must be a whole number, at least 1."),
        ("ISA", "sse", "one of auto, ref, avx2, "),
        ("OFFLINE", "perhaps", "yes or no"),
        ("HEADER_TIMEOUT_SECONDS", "nan", "a number above 0"),
        ("HEADER_TIMEOUT_SECONDS", "inf", "a number above 0"),
        ("MODEL", "", "a text that is not empty"),
    ],
)
def test_malformed_variable_is_named_with_what_it_may_be(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(f"TRITSERVE_{name}", value)
    with pytest.raises(SettingsError, match=f"^TRITSERVE_{name}: ") as caught:
        load_settings({})
    assert expected in str(caught.value)


def test_unknown_names_are_errors_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("thread = 2")
    with pytest.raises(SettingsError, match=r"thread in .*c\.toml is not a setting\. Did you mean threads\?"):
        load_settings({}, config)
    monkeypatch.setenv("TRITSERVE_PROT", "1")
    with pytest.raises(SettingsError, match=r"TRITSERVE_PROT is not a setting\. Did you mean TRITSERVE_PORT\?"):
        load_settings({})


def test_wrong_flag_is_named_as_a_flag() -> None:
    with pytest.raises(SettingsError, match=r"^--queue-limit: '-1'"):
        load_settings({"queue_limit": "-1"})


def test_service_link_variables_are_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    links = {
        "TRITSERVE_SERVICE_HOST": "10.0.0.7",
        "TRITSERVE_SERVICE_PORT": "8000",
        "TRITSERVE_SERVICE_PORT_HTTP": "8000",
        "TRITSERVE_PORT": "tcp://10.0.0.7:8000",
        "TRITSERVE_PORT_8000_TCP": "tcp://10.0.0.7:8000",
        "TRITSERVE_PORT_8000_TCP_PROTO": "tcp",
        "TRITSERVE_PORT_8000_TCP_PORT": "8000",
        "TRITSERVE_PORT_8000_TCP_ADDR": "10.0.0.7",
        "TRITSERVE_WEB_SERVICE_HOST": "10.0.0.8",
        "TRITSERVE_WEB_PORT": "tcp://10.0.0.8:80",
    }
    for name, value in links.items():
        monkeypatch.setenv(name, value)
    loaded = load_settings({})
    assert set(loaded.ignored) == set(links)
    assert loaded.settings.port == 8000


def test_settings_object_reads_nothing_but_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITSERVE_PORT", "9")
    assert Settings().port == 8000


def test_printed_settings_are_toml_without_secrets(tmp_path: Path) -> None:
    text = print_settings(Settings(api_key=SecretStr("hunter2"), cors_origins=('a"b\\\nc',)))
    assert "hunter2" not in text
    assert "# api_key = (set, redacted)" in text
    assert tomllib.loads(text)["cors_origins"] == ['a"b\\\nc']
    config = tmp_path / "c.toml"
    config.write_text(text)
    assert load_settings({}, config).settings.port == 8000


def test_wrong_secret_is_not_repeated(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("api_key = 12345")
    with pytest.raises(SettingsError) as caught:
        load_settings({}, config)
    assert "12345" not in str(caught.value)


def test_broken_and_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("port = = 1")
    with pytest.raises(SettingsError, match=r"c\.toml is not TOML"):
        load_settings({}, tmp_path / "c.toml")
    with pytest.raises(SettingsError, match="does not exist"):
        load_settings({}, tmp_path / "absent.toml")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.4.5", "localhost", "::1"])
def test_loopback_needs_no_key(host: str) -> None:
    require_key_beyond_loopback(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_other_addresses_need_a_key_or_a_decision(host: str) -> None:
    with pytest.raises(SettingsError) as caught:
        require_key_beyond_loopback(Settings(host=host, port=81, model="m"))
    command = f"tritserve serve m --host {host} --port 81"
    assert f"{command} --api-key-file" in str(caught.value)
    assert f"TRITSERVE_ALLOW_NO_KEY=yes {command}" in str(caught.value)
    require_key_beyond_loopback(Settings(host=host, allow_no_key=True))
    require_key_beyond_loopback(Settings(host=host, api_key=SecretStr("k")))


def test_tls_files_come_together() -> None:
    with pytest.raises(SettingsError, match="tls_certfile and tls_keyfile must be given together"):
        load_settings({"tls_certfile": "x.pem"})


def test_cache_folder_follows_xdg_and_survives_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert writable_cache_dir(Settings()) == tmp_path / "xdg" / "tritserve"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = writable_cache_dir(Settings())
    assert folder == tmp_path / f"tritserve-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_temporary_cache_folder_made_by_a_link_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"tritserve-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingsError, match="belongs to somebody else"):
        writable_cache_dir(Settings())


def test_unwritable_cache_folder_is_named_with_uid_and_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=rf"file as uid {os.getuid()}.*--cache-dir or TRITSERVE_CACHE_DIR"):
        writable_cache_dir(Settings(cache_dir=tmp_path / "file"))


def test_configured_cache_folder_that_can_only_be_read_still_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # root may write anywhere
    with pytest.raises(SettingsError, match="Permission denied"):
        writable_cache_dir(Settings(cache_dir=tmp_path))
    assert readable_cache_dir(Settings(cache_dir=tmp_path)) == tmp_path
    with pytest.raises(SettingsError, match="Permission denied"):
        readable_cache_dir(Settings(cache_dir=tmp_path / "absent"))


def test_machine_without_any_writable_folder_is_told_which_setting_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", refuse)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    with pytest.raises(SettingsError, match=rf"uid {os.getuid()}.*--cache-dir or TRITSERVE_CACHE_DIR"):
        writable_cache_dir(Settings())


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HOME": "/home/x"}, "/home/x/.cache/huggingface/hub"),
        ({"HOME": "/home/x", "XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({"HOME": "/home/x", "HF_HOME": "/hf"}, "/hf/hub"),
        ({"HOME": "/home/x", "HF_HOME": "/hf", "HF_HUB_CACHE": "~/hub"}, "/home/x/hub"),
        ({}, None),
    ],
)
def test_hub_cache_is_where_its_library_keeps_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str | None
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert hub_cache_dir() == (None if expected is None else Path(expected))


def test_settings_module_alone_reads_the_environment() -> None:
    package = Path(__file__).parents[2] / "server" / "tritserve"
    reading = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(word in path.read_text() for word in ("os.environ", "os.getenv", "environb"))
    }
    assert reading <= {"settings.py"}


def test_worker_inherits_no_setting_and_computes_in_its_own_threads_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITSERVE_API_KEY", "hunter2")
    monkeypatch.setenv("TRITSERVE_PORT", "1")
    monkeypatch.setenv("TZ", "UTC")
    inherited = worker_environment()
    assert not [name for name in inherited if name.startswith("TRITSERVE_")]
    assert "hunter2" not in inherited.values()
    assert (inherited["TZ"], inherited["OPENBLAS_NUM_THREADS"]) == ("UTC", "1")
