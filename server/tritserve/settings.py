"""Every setting of the server: the only module that reads the environment.

Precedence: flag, ``TRITSERVE_*`` variable, TOML file (``--config`` or ``TRITSERVE_CONFIG``), default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """The server's settings, validated once at start and frozen."""

    model_config = SettingsConfigDict(env_prefix="TRITSERVE_", frozen=True, extra="forbid")

    # what is served
    model: str = Field("demo", description="checkpoint folder, .trit file, hub id, or 'demo' (the embedded model)")
    served_model_name: tuple[str, ...] = Field((), description="names clients may use; the first is the canonical one")
    cache_dir: Path | None = Field(None, description="where packed models are kept (default: XDG cache, else a temporary folder)")
    offline: bool = Field(False, description="never open an outbound connection")

    # where
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks one")
    allowed_hosts: tuple[str, ...] = Field((), description="names the Host header may carry besides localhost and IP literals")
    cors_origins: tuple[str, ...] = Field((), description="origins allowed by CORS; none: off")
    tls_certfile: Path | None = None
    tls_keyfile: Path | None = None

    # who
    api_key_file: Path | None = Field(None, description="file with one key per line: name, sha256 hex[, expiry date]")
    api_key: SecretStr | None = Field(None, description="one API key (environment only)")
    allow_no_key: bool = Field(False, description="listen beyond loopback without a key")

    # machine
    workers: int = Field(0, ge=0, le=64, description="worker processes; 0: one per NUMA node")
    threads: int = Field(0, ge=0, le=256, description="compute threads per worker; 0: from quota, affinity and physical cores")
    isa: Literal["auto", "ref", "avx2", "avx512vnni", "neon"] = "auto"
    kv_cache_bytes: int = Field(0, ge=0, description="KV pool per worker; 0: from the free memory, at most 2 GiB")
    max_model_len: int = Field(0, ge=0, description="context limit; 0: the model's")
    max_batch_size: int = Field(32, ge=1, le=1024, description="sequences in one step")
    max_step_tokens: int = Field(256, ge=16, le=8192, description="rows of one step (decode and prefill)")
    prefix_cache: bool = Field(True, description="reuse the KV blocks of equal prefixes")

    # bounds
    queue_limit: int = Field(256, ge=1, description="choices waiting or running")
    max_tokens_in_flight: int = Field(1_000_000, ge=1, description="prompt plus max_tokens over all admitted choices")
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1024)
    max_header_bytes: int = Field(16 * 1024, ge=1024)
    max_headers: int = Field(100, ge=8)
    header_timeout_seconds: float = Field(10.0, gt=0)
    body_idle_timeout_seconds: float = Field(30.0, gt=0)
    keep_alive_seconds: float = Field(15.0, gt=0, description="SSE comment interval while silent")
    write_buffer_bytes: int = Field(256 * 1024, ge=4096, description="unsent bytes after which a slow reader holds back its stream")
    slow_reader_timeout_seconds: float = Field(120.0, gt=0, description="how long a stream may be stalled by its reader")
    max_connections: int = Field(1024, ge=1)
    max_n: int = Field(8, ge=1)
    max_prompts: int = Field(64, ge=1, description="prompts in one text completion request")
    max_messages: int = Field(1024, ge=1)
    max_stop_strings: int = Field(16, ge=0)
    max_stop_chars: int = Field(256, ge=1)
    max_logit_bias: int = Field(1024, ge=0)
    max_json_depth: int = Field(64, ge=4)
    max_completion_tokens: int = Field(0, ge=0, description="largest max_tokens; 0: what is left of the context")
    request_timeout_seconds: float = Field(600.0, gt=0)
    drain_timeout_seconds: float = Field(30.0, ge=0)
    strict_parameters: bool = Field(False, description="refuse unknown request parameters instead of listing them in a header")

    # logs
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "text", "json"] = "auto"
