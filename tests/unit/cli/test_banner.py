"""The banner: what it says, the line to paste, and that nothing of it can stop the server."""

import asyncio
import json
import shlex
import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest
from scripted_pool import ScriptedPool

from tritserve.api.front import Front
from tritserve.cli.banner import announce, banner, curl_line, measure_decode
from tritserve.errors import Overloaded
from tritserve.machine import Machine, NumaNode
from tritserve.settings import Settings

URL = "http://127.0.0.1:8000"
MACHINE = Machine((NumaNode((0, 1), 2),), None, None, 2**34)


def front(
    pool: ScriptedPool, *, names: tuple[str, ...] = ("tiny",), has_template: bool = True, keys: Any = None
) -> Front:
    text = SimpleNamespace(has_chat_template=has_template)
    model = SimpleNamespace(names=names, text=text, vocab_size=256)
    made = SimpleNamespace(settings=Settings(), pool=pool, model=model, telemetry=None, keys=keys)
    return cast("Front", made)


def test_banner_names_what_serves_and_why() -> None:
    pool = ScriptedPool(max_model_len=4096)
    pool.set_status(isa="avx2", num_threads=2, kv_capacity_bytes=3 * 2**20)
    text = banner(front(pool, names=("a", "b", "c")), URL, 1234.5, MACHINE)
    assert f"is ready on {URL}\n" in text
    for line in (
        "model    a, also called b, c",
        "kernels  avx2 (the best of this processor, system and build)",
        "threads  2 (2 physical cores)",
        "context  4,096 tokens; KV cache of 3 MiB",
        "API key  none is asked for",
    ):
        assert line in text
    assert "speed    1,23" in text


def test_plain_c_path_is_called_slow_and_an_unmeasured_speed_unmeasured() -> None:
    text = banner(front(ScriptedPool()), URL, None, MACHINE)
    assert "ref (plain C, slow" in text
    assert "speed    not measured" in text


def test_line_to_paste_fits_the_model_and_the_key() -> None:
    words = shlex.split(curl_line(front(ScriptedPool(), names=("it's",)), URL))
    assert words[:2] == ["curl", f"{URL}/v1/chat/completions"]
    assert json.loads(words[-1])["model"] == "it's"
    line = curl_line(front(ScriptedPool(), has_template=False, keys=object()), URL)
    assert f"{URL}/v1/completions" in line
    assert line.endswith(' -H "Authorization: Bearer $TRITSERVE_API_KEY"')
    assert "prompt" in json.loads(shlex.split(line)[shlex.split(line).index("-d") + 1])


async def test_speed_is_that_of_one_stream_and_leaves_no_full_block_behind() -> None:
    pool = ScriptedPool()
    speed = await measure_decode(front(pool))
    assert speed is not None
    assert speed > 0
    (request,) = pool.requests
    assert len(request.prompt) + request.max_tokens < 16
    assert pool.generations[0].is_over


async def test_refused_or_silent_measurement_gives_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = ScriptedPool()
    refusing.refusal = Overloaded("full", reason="queue_full", retry_after_seconds=1)
    assert await measure_decode(front(refusing)) is None
    monkeypatch.setattr("tritserve.cli.banner._MEASURE_SECONDS", 0.01)
    silent = ScriptedPool(lambda request: [])
    assert await measure_decode(front(silent)) is None
    assert silent.generations[0].was_aborted


async def test_closed_output_does_not_stop_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Broken())
    announce(front(ScriptedPool()), URL)
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "banner"]
    await task
