"""Every setting of the server: the only module that reads the environment.

Precedence: flag, ``TRITSERVE_*`` variable, TOML file (``--config`` or ``TRITSERVE_CONFIG``), default. A name that
nobody knows is an error in each of them. Kubernetes gives every pod variables for the services of its namespace
(``TRITSERVE_SERVICE_HOST``, ``TRITSERVE_PORT=tcp://10.0.0.7:8000``, ...): those are set aside and listed in
``Loaded.ignored``.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from tritserve.errors import SettingsError
from tritserve.isa import IsaName  # noqa: TC001 - pydantic reads the annotation
from tritserve.kv_dtype import KvDtypeName  # noqa: TC001 - pydantic reads the annotation
from tritserve.model.header import WeightsName  # noqa: TC001 - pydantic reads the annotation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic.fields import FieldInfo

PREFIX = "TRITSERVE_"
CONFIG_VARIABLE = PREFIX + "CONFIG"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_SERVICE_LINK = re.compile(
    r"TRITSERVE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")


class Settings(BaseSettings):
    """The server's settings, validated once at start and frozen.

    ``Settings(...)`` reads nothing but its arguments, so that an object means the same everywhere; ``load_settings``
    reads the environment and the file.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # what is served
    model: str = Field(
        "demo",
        min_length=1,
        description="checkpoint folder, .trit file, hub id, or 'demo' (the embedded model)",
    )
    served_model_name: tuple[str, ...] = Field((), description="names clients may use; the first is the canonical one")
    cache_dir: Path | None = Field(
        None, description="where packed models are kept (default: the XDG cache, else a temporary folder)"
    )
    offline: bool = Field(False, description="never open an outbound connection")

    # where
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks one")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="names the Host header may carry besides localhost and IP literals"
    )
    cors_origins: tuple[str, ...] = Field((), description="origins allowed by CORS; none: off")
    tls_certfile: Path | None = Field(
        None, description="certificate chain in PEM; serves HTTPS together with the key file"
    )
    tls_keyfile: Path | None = Field(None, description="the certificate's private key in PEM")

    # who
    api_key_file: Path | None = Field(None, description="file with one key per line: name, sha256 hex[, expiry date]")
    api_key: SecretStr | None = Field(None, description="one API key (never a flag: command lines are public)")
    allow_no_key: bool = Field(False, description="listen beyond loopback without a key")

    # machine
    workers: int = Field(0, ge=0, le=64, description="worker processes; 0: one per NUMA node")
    threads: int = Field(
        0, ge=0, le=256, description="compute threads per worker; 0: from quota, affinity and physical cores"
    )
    isa: IsaName = Field("auto", description="instruction set of the kernels")
    weights: WeightsName = Field(
        "auto",
        description="packing of converted ternary weights; skip: faster for one sequence only; dense: a fifth smaller, slower; auto: fast if it fits",
    )
    calibrate: bool = Field(
        True, description="with isa auto, choose among kernels by their speed, measured at start in milliseconds"
    )
    kv_cache_bytes: int = Field(0, ge=0, description="KV pool per worker; 0: from the free memory, at most 2 GiB")
    kv_dtype: KvDtypeName = Field(
        "int16", description="type of stored keys and values; int8: half the memory, a little error"
    )
    max_model_len: int = Field(0, ge=0, description="context limit; 0: the model's")
    max_batch_size: int = Field(32, ge=1, le=1024, description="sequences in one step")
    max_step_tokens: int = Field(256, ge=16, le=8192, description="rows of one step (decode and prefill)")
    prefix_cache: bool = Field(True, description="reuse the KV blocks of equal prefixes")

    # bounds
    queue_limit: int = Field(256, ge=1, description="choices waiting or running")
    max_tokens_in_flight: int = Field(1_000_000, ge=1, description="prompt plus max_tokens over all admitted choices")
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1024, description="largest request body")
    max_header_bytes: int = Field(16 * 1024, ge=1024, description="largest request head")
    max_headers: int = Field(100, ge=8, description="header lines of a request")
    header_timeout_seconds: float = Field(
        10.0, gt=0, description="from a request's first byte to the end of its headers"
    )
    body_idle_timeout_seconds: float = Field(30.0, gt=0, description="silence allowed inside a request body")
    keep_alive_seconds: float = Field(15.0, gt=0, description="SSE comment interval while silent")
    write_buffer_bytes: int = Field(
        256 * 1024, ge=4096, description="unsent bytes after which a slow reader holds back its stream"
    )
    slow_reader_timeout_seconds: float = Field(
        120.0, gt=0, description="how long a stream may be stalled by its reader"
    )
    max_connections: int = Field(1024, ge=1, description="open connections")
    max_n: int = Field(8, ge=1, description="choices of one prompt")
    max_prompts: int = Field(64, ge=1, description="prompts in one text completion request")
    max_messages: int = Field(1024, ge=1, description="messages of one chat request")
    max_stop_strings: int = Field(16, ge=0, description="stop strings of a request")
    max_stop_chars: int = Field(256, ge=1, description="characters of one stop string")
    max_logit_bias: int = Field(1024, ge=0, description="logit_bias entries of a request")
    max_grammar_bytes: int = Field(
        64 * 1024, ge=1024, le=1024 * 1024, description="largest schema, regular expression or grammar of a request"
    )
    max_grammar_seconds: float = Field(1.0, gt=0, le=60, description="processor time that checking one may take")
    max_json_depth: int = Field(64, ge=4, description="nesting of a request body")
    max_completion_tokens: int = Field(0, ge=0, description="largest max_tokens; 0: what is left of the context")
    request_timeout_seconds: float = Field(600.0, gt=0, description="wall time of one request")
    drain_timeout_seconds: float = Field(30.0, ge=0, description="time running streams get to finish after SIGTERM")
    strict_parameters: bool = Field(
        False, description="refuse unknown request parameters instead of listing them in a header"
    )

    # logs
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe line that is logged"
    )
    log_format: Literal["auto", "text", "json"] = Field("auto", description="auto: text on a terminal, JSON otherwise")

    @field_validator("served_model_name", "allowed_hosts", "cors_origins", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            value = [value]
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(part.strip() for item in value for part in item.split(",") if part.strip())
        return value

    @model_validator(mode="after")
    def _tls_needs_both_files(self) -> Settings:
        if (self.tls_certfile is None) != (self.tls_keyfile is None):
            raise ValueError("tls_certfile and tls_keyfile must be given together")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and the service-link variables that were set aside on the way."""

    settings: Settings
    ignored: tuple[str, ...]


def load_settings(flags: Mapping[str, object], config: Path | None = None) -> Loaded:
    """Merge flags (None: not given), environment, TOML file and defaults.

    Raises SettingsError, naming where a wrong value came from.
    """
    links = tuple(sorted(name for name, value in os.environ.items() if _is_service_link(name, value)))
    variables = {name: value for name, value in os.environ.items() if name.startswith(PREFIX) and name not in links}
    given = variables.pop(CONFIG_VARIABLE, None)
    path = config if config is not None else Path(given) if given else None
    flags = {name: value for name, value in flags.items() if value is not None}
    environment = {name.removeprefix(PREFIX).lower(): value for name, value in variables.items()}
    file = _read_toml(path)
    for name in environment:
        _require_known(name, PREFIX + name.upper(), PREFIX, str.upper)
    for name in file:
        _require_known(name, f"{name} in {path}", "", str)

    try:
        settings = Settings.model_validate({**file, **environment, **flags})
    except ValidationError as error:
        raise _explain(error, flags, environment, path) from None
    return Loaded(settings, links)


def describe_setting(name: str, field: FieldInfo) -> str:
    """Say what a setting may be: ``0..65535``, ``one of auto, text, json``, ``yes or no``."""
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(get_args(field.annotation))
    if field.annotation is bool:
        return "yes or no"
    if field.annotation in (int, float):
        kind = "a whole number" if field.annotation is int else "a number"
        low = next((f"{m.ge}" for m in field.metadata if hasattr(m, "ge")), None)
        above = next((f"{m.gt}" for m in field.metadata if hasattr(m, "gt")), None)
        high = next((f"{m.le}" for m in field.metadata if hasattr(m, "le")), None)
        if low is not None and high is not None:
            return f"{kind}, {low}..{high}"
        return f"{kind} above {above}" if above is not None else f"{kind}, at least {low}"
    if get_origin(field.annotation) is tuple:
        return "names separated by commas"
    return "a path" if "Path" in str(field.annotation) else "a text that is not empty"


def print_settings(settings: Settings) -> str:
    """Return the settings as TOML that ``--config`` reads, secrets redacted and unset ones as comments."""
    return "".join(_toml_line(name, getattr(settings, name)) for name in Settings.model_fields)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    return host in LOOPBACK_NAMES or host.startswith("127.")


def require_key_beyond_loopback(settings: Settings) -> None:
    """Refuse to serve other machines without a key. Raises SettingsError with both corrected commands."""
    has_key = settings.api_key is not None or settings.api_key_file is not None
    if is_loopback(settings.host) or has_key or settings.allow_no_key:
        return
    command = f"tritserve serve {settings.model} --host {settings.host} --port {settings.port}"
    raise SettingsError(
        f"refusing to listen on {settings.host} without an API key: anyone who reaches this address could use the server. Either\n"
        f"  {command} --api-key-file keys.txt    (one line per key: name, sha256 hex), or\n"
        f"  TRITSERVE_ALLOW_NO_KEY=yes {command}    (no key, on purpose)"
    )


def client_api_key(key_file: Path | None) -> str | None:
    """Return the key a client command sends: the file's first line, else ``TRITSERVE_API_KEY``, else none."""
    if key_file is None:
        return os.environ.get(PREFIX + "API_KEY") or None
    try:
        return key_file.read_text().split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the key file {key_file}: {error}") from error


def worker_environment() -> dict[str, str]:
    """Return what a worker inherits: not the server's settings (there may be a key among them), no thread pools of numpy."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return kept | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def readable_cache_dir(settings: Settings) -> Path:
    """Return the folder to look for packed models in: ``writable_cache_dir``, or a configured one that this user can only read (it
    serves what is in it). Raises SettingsError."""
    if (
        settings.cache_dir is not None
        and settings.cache_dir.is_dir()
        and os.access(settings.cache_dir, os.R_OK | os.X_OK)
    ):
        return settings.cache_dir
    return writable_cache_dir(settings)


def writable_cache_dir(settings: Settings) -> Path:
    """Return the folder for packed models, made if absent. Raises SettingsError naming path, uid and the fix."""
    if settings.cache_dir is not None:
        return _make_writable(settings.cache_dir)
    base = _user_cache()
    if base is not None:
        try:
            return _make_writable(base / "tritserve")
        except SettingsError:
            pass  # any uid works, also without a home of its own: fall through to the temporary folder
    try:
        temporary = Path(tempfile.gettempdir())
    except OSError as error:
        raise SettingsError(
            f"no folder can be written as uid {os.getuid()}, the temporary ones included: name one with --cache-dir or TRITSERVE_CACHE_DIR"
        ) from error
    return _make_writable(temporary / f"tritserve-{os.getuid()}", private=True)


def hub_cache_dir() -> Path | None:
    """Return where ``huggingface_hub`` keeps its downloads, from the variables it documents; None without a home."""
    base = _user_cache()
    for name, below in (("HF_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if os.environ.get(name):
            return Path(os.path.expanduser(os.environ[name])) / below
    return None if base is None else base / "huggingface" / "hub"


def _user_cache() -> Path | None:
    base = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("HOME") and os.path.join(os.environ["HOME"], ".cache"))
    return Path(base) if base and os.path.isabs(base) else None


def _make_writable(folder: Path, *, private: bool = False) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if private and (not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid()):
            # The temporary folder is shared: never trust what another user put there.
            raise PermissionError("it belongs to somebody else")
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(
            f"cannot write to the cache folder {folder} as uid {os.getuid()}: {reason}. "
            f"Give it to this user (chown {os.getuid()} {folder}) or name another with --cache-dir or TRITSERVE_CACHE_DIR."
        ) from error


def _is_service_link(name: str, value: str) -> bool:
    if _SERVICE_LINK.fullmatch(name):
        return True
    return name.startswith(PREFIX) and name.endswith("_PORT") and _SERVICE_URL.match(value) is not None


def _read_toml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    if not path.is_file():
        raise SettingsError(f"the configuration file {path} does not exist or is not a file")
    try:
        return TomlConfigSettingsSource(Settings, toml_file=path)()
    except ValueError as error:  # tomllib.TOMLDecodeError
        raise SettingsError(f"the configuration file {path} is not TOML: {error}") from error


def _require_known(name: str, shown: str, prefix: str, case: Callable[[str], str]) -> None:
    if name in Settings.model_fields:
        return
    near = difflib.get_close_matches(name, Settings.model_fields, n=1, cutoff=0.5)
    hint = f" Did you mean {prefix}{case(near[0])}?" if near else ""
    raise SettingsError(f"{shown} is not a setting.{hint}")


def _explain(
    error: ValidationError, flags: Mapping[str, object], environment: Mapping[str, str], path: Path | None
) -> SettingsError:
    lines = []
    for problem in error.errors(include_url=False, include_context=False):
        if not problem["loc"]:
            lines.append(str(problem["msg"]).removeprefix("Value error, "))
            continue
        name = str(problem["loc"][0])
        if name in flags:
            source = "--" + name.replace("_", "-")
        elif name in environment:
            source = PREFIX + name.upper()
        else:
            source = f"{name} in {path}"
        field = Settings.model_fields[name]
        value = "***" if "SecretStr" in str(field.annotation) else repr(problem["input"])
        lines.append(f"{source}: {value} is not allowed; it must be {describe_setting(name, field)}.")
    return SettingsError("\n".join(lines))


def _toml_line(name: str, value: object) -> str:
    if value is None:
        return f"# {name} = (not set)\n"
    if isinstance(value, SecretStr):
        return f"# {name} = (set, redacted)\n"
    if isinstance(value, bool):
        return f"{name} = {str(value).lower()}\n"
    if isinstance(value, (int, float)):
        return f"{name} = {value}\n"
    if isinstance(value, tuple):
        return f"{name} = [{', '.join(_toml_string(item) for item in value)}]\n"
    return f"{name} = {_toml_string(str(value))}\n"


def _toml_string(text: str) -> str:
    escaped = re.sub(r'[\x00-\x1f"\\\x7f]', lambda match: f"\\u{ord(match[0]):04x}", text)
    return f'"{escaped}"'
