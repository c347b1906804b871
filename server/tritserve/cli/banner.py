"""What a person reads when the server is ready: where it is, what computes, how fast, and a line to paste."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shlex
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

from tritserve.errors import ServerError
from tritserve.machine import explain_threads, read_machine
from tritserve.pool.generation import ChoiceToken, GenerationRequest
from tritserve.protocol import SamplingParams

if TYPE_CHECKING:
    from tritserve.api.front import Front
    from tritserve.machine import Machine

logger = logging.getLogger(__name__)
_MEASURED_TOKENS = 12
"""With the prompt's one token fewer than a block of the prefix cache: the measurement leaves nothing behind."""
_MEASURE_SECONDS = 1.0


_tasks: set[asyncio.Task[None]] = set()


def announce(front: Front, url: str) -> None:
    """Measure one short stream and print the banner, in a task of the running loop. Whatever happens to either, the server goes on."""
    task = asyncio.get_running_loop().create_task(_announce(front, url), name="banner")
    _tasks.add(task)  # the loop alone would not keep it alive
    task.add_done_callback(_tasks.discard)


async def _announce(front: Front, url: str) -> None:
    speed = await measure_decode(front)
    try:
        print(banner(front, url, speed, read_machine()), flush=True)
    except (OSError, ValueError):  # standard output is closed: nobody wants to know
        logger.debug("nobody reads the banner")


def banner(front: Front, url: str, speed: float | None, machine: Machine) -> str:
    """Return the text. ``speed`` in tokens per second of one stream, None where it could not be measured."""
    status, settings = front.pool.status, front.settings
    names, why = front.model.names, explain_threads(machine, status.num_workers, settings.threads)
    chosen = "the best of this processor, system and build" if settings.isa == "auto" else "as set"
    lines = {
        "model": names[0] if len(names) == 1 else f"{names[0]}, also called {', '.join(names[1:])}",
        "kernels": f"{status.isa} ({chosen})" if status.isa != "ref" else f"ref (plain C, slow; {chosen})",
        "threads": f"{status.num_threads} ({why})",
        "context": f"{status.max_model_len:,} tokens; KV cache of {status.kv_capacity_bytes / 2**20:,.0f} MiB, {status.kv_dtype}",
        "speed": "not measured" if speed is None else f"{speed:,.4g} tokens/s for one stream, measured now",
        "API key": "none is asked for" if front.keys is None else "asked for",
    }
    facts = "\n".join(f"  {name:8} {value}" for name, value in lines.items())
    return f"\ntritserve {version('tritserve')} is ready on {url}\n\n{facts}\n\n  {curl_line(front, url)}\n"


def curl_line(front: Front, url: str) -> str:
    """Return a command that asks the model something, to paste as it stands."""
    question = "Tell me a story about a cat."
    body: dict[str, object] = {"model": front.model.names[0]}
    if front.model.text.has_chat_template:
        path = "/v1/chat/completions"
        body["messages"] = [{"role": "user", "content": question}]
    else:
        path = "/v1/completions"
        body |= {"prompt": "Once upon a time", "max_tokens": 64}
    words = ["curl", url + path, "-H", "Content-Type: application/json", "-d", json.dumps(body)]
    key = ' -H "Authorization: Bearer $TRITSERVE_API_KEY"' if front.keys is not None else ""
    return shlex.join(words) + key


async def measure_decode(front: Front) -> float | None:
    """Return the tokens per second of one short stream, None if it fails or takes too long to tell."""
    token = max(0, front.model.vocab_size // 2)
    request = GenerationRequest(
        request_id="banner",
        prompt=[token],
        choices=[SamplingParams(seed=0)],
        max_tokens=_MEASURED_TOKENS,
    )
    times: list[float] = []
    try:
        generation = await front.pool.submit(request)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_MEASURE_SECONDS):
                    async for event in generation:
                        times += [time.perf_counter()] * isinstance(event, ChoiceToken)
        finally:
            generation.abort()
    except ServerError as error:
        logger.debug("the speed could not be measured: %s", error)
    # The first gap warms up.
    return (len(times) - 2) / (times[-1] - times[1]) if len(times) > 3 else None
