"""``tritserve bench --url``: load a running server in a closed loop and measure what its clients see.

Each of C clients sends its next request when its last one is answered. Prompts are random words from a fixed seed, each its own, so that
the prefix cache does not flatter; answers have exactly the tokens asked for (``ignore_eos``). A warm-up is not counted. Times are the
client's, as telemetry.py defines them for the server: TTFT first token minus send, TPOT (last - first) / (n - 1) of a request, ITL each
gap between the pieces of a stream.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import platform
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from tritserve.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SEED = 1
_WARM_UP_TOKENS = 4
_READ_SECONDS = 900
_WORDS = tuple(
    word
    for line in (
        "the one two cat dog sun rain house tree river small big red old new went saw made found little",
        "day night mother friend water garden morning bird boat story window light hand door happy under over with and then",
    )
    for word in line.split()
)


@dataclass(frozen=True, slots=True)
class Load:
    """What to send: per level of ``concurrency`` so many requests, each of so many words, for so many tokens of answer."""

    concurrency: tuple[int, ...]
    num_requests: int
    num_words: int
    num_tokens: int


@dataclass(slots=True)
class Answer:
    """What one client saw of one request; times in seconds from sending."""

    piece_times: list[float] = field(default_factory=list)
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    error: str | None = None


def measure_server(
    url: str, key: str | None, model: str | None, load: Load, say: Callable[[str], None]
) -> dict[str, object]:
    """Run every level against the server at ``url`` and return the report. Raises ServerError if none answers there."""
    url = url.rstrip("/").removesuffix("/v1")  # what OpenAI clients call base_url is meant as well
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def run() -> dict[str, object]:
        async with httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=httpx.Timeout(30, read=_READ_SECONDS),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        ) as client:
            return await measure(client, model, load, say)

    try:
        return asyncio.run(run())
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServerError(f"no server answers at {url} ({error or type(error).__name__})") from error


async def measure(
    client: httpx.AsyncClient, model: str | None, load: Load, say: Callable[[str], None]
) -> dict[str, object]:
    """Return the report of every level. Raises ServerError if what answers is no OpenAI-compatible server, httpx.HTTPError if none does."""
    served = model or await _first_model(client)
    rows = []
    for concurrency in load.concurrency:
        say(f"{load.num_requests} requests, {concurrency} at a time")
        rows.append(await _level(client, served, concurrency, load))
    properties = await client.get("/props")
    return {
        "client": {"python": platform.python_version(), "system": platform.platform()},
        "server": properties.json() if properties.status_code == 200 else None,
        "model": served,
        "load": {
            "requests": load.num_requests,
            "words": load.num_words,
            "output_tokens": load.num_tokens,
            "seed": SEED,
        },
        "rows": rows,
    }


async def _first_model(client: httpx.AsyncClient) -> str:
    response = await client.get("/v1/models")
    try:
        return str(response.raise_for_status().json()["data"][0]["id"])
    except (httpx.HTTPStatusError, ValueError, KeyError, IndexError, TypeError) as error:
        why = f"/v1/models answered {response.status_code}: {response.text[:200]!r}"
        raise ServerError(
            f"what answers at {client.base_url} does not let us use an OpenAI-compatible API; {why}"
        ) from error


async def _level(client: httpx.AsyncClient, model: str, concurrency: int, load: Load) -> dict[str, object]:
    rng = random.Random(f"{SEED}-{concurrency}")
    prompts = [" ".join(rng.choices(_WORDS, k=load.num_words)) for _ in range(load.num_requests + concurrency)]
    warm_up = prompts[load.num_requests :]
    await asyncio.gather(*(ask(client, model, prompt, _WARM_UP_TOKENS, SEED) for prompt in warm_up))
    waiting = iter(list(enumerate(prompts[: load.num_requests])))
    answers: list[Answer] = []

    async def work() -> None:
        for index, prompt in waiting:
            answers.append(await ask(client, model, prompt, load.num_tokens, SEED + index))

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return level_row(concurrency, answers, time.perf_counter() - start)


async def ask(client: httpx.AsyncClient, model: str, prompt: str, num_tokens: int, seed: int) -> Answer:
    """Stream one completion of ``num_tokens`` tokens and note when each piece came. Whatever goes wrong is the answer's ``error``."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": num_tokens,
        "ignore_eos": True,
        "temperature": 1.0,
        "seed": seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    answer = Answer()
    start = time.perf_counter()
    try:
        async with client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                answer.error = f"{response.status_code}: {(await response.aread())[:200]!r}"
                return answer
            async for chunk in _chunks(response):
                if "error" in chunk:
                    answer.error = str(chunk["error"])
                    return answer
                if chunk.get("usage"):
                    answer.num_prompt_tokens = chunk["usage"]["prompt_tokens"]
                    answer.num_tokens = chunk["usage"]["completion_tokens"]
                if chunk["choices"]:
                    answer.piece_times.append(time.perf_counter() - start)
    except httpx.HTTPError as error:
        answer.error = f"{type(error).__name__}: {error}"
    except (ValueError, KeyError, TypeError) as error:
        answer.error = f"a piece of the stream is not what OpenAI's API sends: {error!r}"
    if answer.error is None and not answer.piece_times:
        answer.error = "the stream ended without a token"
    return answer


async def _chunks(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def level_row(concurrency: int, answers: list[Answer], seconds: float) -> dict[str, object]:
    """Return one row of the report: rates over ``seconds``, and the spread of what the clients saw. Failed answers only count as failed."""
    good = [answer for answer in answers if answer.error is None]
    times = [answer.piece_times for answer in good]
    num_tokens = sum(answer.num_tokens for answer in good)
    return {
        "work": "serving",
        "concurrency": concurrency,
        "requests": len(answers),
        "failed": len(answers) - len(good),
        "errors": sorted({answer.error for answer in answers if answer.error is not None}),
        "prompt_tokens": sum(answer.num_prompt_tokens for answer in good),
        "output_tokens": num_tokens,
        "seconds": round(seconds, 3),
        "output_tokens_per_second": round(num_tokens / seconds, 2),
        "requests_per_second": round(len(good) / seconds, 3),
        "ttft_seconds": percentiles([each[0] for each in times]),
        "tpot_seconds": percentiles(
            [
                (answer.piece_times[-1] - answer.piece_times[0]) / (answer.num_tokens - 1)
                for answer in good
                if answer.num_tokens > 1
            ]
        ),
        "itl_seconds": percentiles([b - a for each in times for a, b in itertools.pairwise(each)]),
    }


def require_no_failures(report: dict[str, object]) -> None:
    """Raise ServerError if a request of the report failed: its figures are then those of another load than was asked for."""
    rows: Any = report["rows"]
    failed, errors = sum(row["failed"] for row in rows), [error for row in rows for error in row["errors"]]
    if failed:
        raise ServerError(f"{failed} of {sum(row['requests'] for row in rows)} requests failed; {errors[0]}")


def percentiles(values: list[float]) -> dict[str, float] | None:
    """Return the 50th, 95th and 99th percentile (the smallest value that so many per cent do not exceed) and the largest; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    found = {f"p{p}": ordered[math.ceil(p / 100 * len(ordered)) - 1] for p in (50, 95, 99)}
    return {name: round(value, 6) for name, value in (*found.items(), ("max", ordered[-1]))}
