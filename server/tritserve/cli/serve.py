"""``tritserve serve MODEL``: everything that can be wrong is found before anything slow, then the front is put together and run.

Modules are imported where they are needed: a wrong setting is told at once, and what is never needed is never waited for.
"""

from __future__ import annotations

import functools
import gc
import logging
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tritserve.cli.flags import is_secret, with_setting_flags
from tritserve.cli.listener import open_listener, url_of
from tritserve.errors import ModelFileError
from tritserve.settings import load_settings, print_settings, readable_cache_dir, require_key_beyond_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tritserve.api.front import Front, ServedModel
    from tritserve.model.packed_file import PackedModel
    from tritserve.pool.generation import Pool
    from tritserve.settings import Settings

logger = logging.getLogger(__name__)
app = typer.Typer(add_completion=False)


@app.command()
@with_setting_flags
def serve(model: str | None, config: Path | None, print_config: bool, flags: Mapping[str, object]) -> None:
    """Serve a model over the OpenAI API; without a name, the embedded demo model."""
    loaded = load_settings({**flags, "model": model}, config)
    settings = loaded.settings
    if print_config:
        typer.echo(print_settings(settings), nl=False)
        return
    # Starting only adds objects; walking them took 0.11 of 0.77 s of processor time (AMD EPYC, Zen 3). ``run`` turns it on again.
    gc.disable()
    # Before the server's own handling stands: a process number 1 has no default action for signals, and children must end with us.
    signal.signal(signal.SIGTERM, _end)
    from tritserve.logs import set_up_logging, with_fields

    set_up_logging(settings)
    logger.info("starting", extra=with_fields(version=version("tritserve"), model=settings.model, **_changed(settings)))
    if loaded.ignored:
        logger.info(
            "variables of a Kubernetes service are not settings and were ignored: %s", ", ".join(loaded.ignored)
        )
    require_key_beyond_loopback(settings)
    with open_listener(settings.host, settings.port) as listener:
        pool, make_front = assemble(settings)
        from tritserve.api.serving import run
        from tritserve.cli.banner import announce

        url = url_of(listener, settings.host, tls=settings.tls_certfile is not None)
        code = run(settings, pool, make_front, listener, on_ready=lambda _: announce(make_front(), url))
    if code:
        raise typer.Exit(code)


def assemble(settings: Settings) -> tuple[Pool, Callable[[], Front]]:
    """Find and convert the model. Returns the pool, not started, and what makes the front: once, when first called, since a large
    tokenizer takes a second to read. Both raise ServerError."""
    from tritserve.api.keys import KeyRing
    from tritserve.cli.locate import convert
    from tritserve.model.packed_file import open_packed
    from tritserve.pool.process_pool import ProcessPool
    from tritserve.telemetry import Telemetry

    keys = KeyRing.from_settings(settings)
    cache_dir = readable_cache_dir(settings)
    path = convert(find_or_pull(settings, cache_dir), cache_dir, settings.weights)
    names = names_of(settings)
    with open_packed(path) as packed:
        header = packed.header
    telemetry = Telemetry(
        model=names[0],
        context=min(settings.max_model_len or header.architecture.max_positions, header.architecture.max_positions),
        queue_limit=settings.queue_limit,
        weights_sha256=header.weights_sha256,
    )
    pool = ProcessPool(settings, path, telemetry)

    @functools.cache
    def make_front() -> Front:
        from tritserve.api.front import Front

        with open_packed(path) as packed:
            model = served_model(packed, names)
        return Front(settings=settings, pool=pool, model=model, telemetry=telemetry, keys=keys)

    return pool, make_front


def find_or_pull(settings: Settings, cache_dir: Path) -> Path:
    """Return the checkpoint folder or packed file of the model, pulling an absent hub id in a process of its own. Raises ModelFileError."""
    from tritserve.cli.locate import find_source

    source = find_source(settings.model, cache_dir)
    if source is None and settings.offline:
        raise ModelFileError(
            f"model {settings.model} is not on this machine and offline mode is on: run `tritserve pull {settings.model}` with a "
            "network first"
        )
    if source is None:
        logger.info("model %s is not on this machine: pulling it", settings.model)
        _pull_in_child(settings.model, cache_dir)
        source = find_source(settings.model, cache_dir)
    if source is None:
        raise ModelFileError(f"model {settings.model} was pulled, but is not whole: try again")
    return source


def names_of(settings: Settings) -> tuple[str, ...]:
    """Return the names clients may use: those that were set, else the last part of the model's name or path."""
    if settings.served_model_name:
        return settings.served_model_name
    name = Path(settings.model.partition("@")[0]).name
    return (name.removesuffix(".trit") or settings.model,)


def served_model(packed: PackedModel, names: tuple[str, ...]) -> ServedModel:
    """Return what the front knows of a packed model. Raises ModelFileError for a tokenizer or template that cannot be used."""
    from tritserve.api.front import ServedModel
    from tritserve.text.model_text import ModelText

    header, special = packed.header, packed.header.special_tokens
    text = ModelText(
        packed.read_tokenizer(),
        chat_template=header.chat_template,
        bos_token_id=special.bos,
        bos_text=special.bos_text,
        eos_text=special.eos_text,
        # A tokenizer that says nothing of it, but names a BOS, wants it (2B4T); one without a text for it has none (Falcon3).
        add_bos=special.bos_text is not None if special.add_bos is None else special.add_bos,
    )
    return ServedModel(
        names=names,
        created=int(time.time()),
        text=text,
        special_tokens=special,
        defaults=header.generation,
        vocab_size=header.architecture.vocab,
        weights_sha256=header.weights_sha256,
    )


def _changed(settings: Settings) -> dict[str, object]:
    """Return the settings that are not the defaults; of a secret only that it is set."""
    found: dict[str, object] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if name != "model" and value != field.default:
            plain = value if isinstance(value, (int, float, str)) else str(value)
            found[name] = "(set)" if is_secret(field) else ", ".join(value) if isinstance(value, tuple) else plain
    return found


def _pull_in_child(model: str, cache_dir: Path) -> None:
    command = [sys.executable, "-m", "tritserve", "pull", model, "--cache-dir", str(cache_dir)]
    # Its output goes beside our log: standard output is for the banner.
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr) as child:
        try:
            code = child.wait()
        finally:
            child.terminate()
    if code:
        raise ModelFileError(f"model {model} could not be pulled; the lines above say why")


def _end(signal_number: int, frame: object) -> None:
    """Stop before there is anything to drain."""
    raise SystemExit(0)
