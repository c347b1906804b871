"""Load a running server and write what clients see as one JSON object: TTFT, TPOT, ITL and throughput by concurrency.

    python benchmarks/serving.py --url http://127.0.0.1:8000 --concurrency 1,4,16 --requests 32 > before.json

A closed loop: each of C clients sends its next request when the last one is answered. Prompts are random words (fixed seed, a new
prefix each, so that the prefix cache does not flatter), answers have exactly --output tokens (``ignore_eos``). The first
requests warm up and are not counted. Definitions as in ``tritserve/telemetry.py``: TTFT first token minus send, TPOT (last -
first) / (n - 1), ITL each gap between chunks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import sys
import time
from dataclasses import dataclass, field

import httpx

WORDS = [
    "the",
    "one",
    "two",
    "cat",
    "dog",
    "sun",
    "rain",
    "house",
    "tree",
    "river",
    "small",
    "big",
    "red",
    "old",
    "new",
    "went",
    "saw",
    "made",
    "found",
    "little",
    "day",
    "night",
    "mother",
    "friend",
    "water",
    "garden",
    "morning",
    "bird",
    "boat",
    "story",
    "window",
    "light",
    "hand",
    "door",
    "happy",
    "under",
    "over",
    "with",
    "and",
    "then",
]


@dataclass
class Answer:
    """What one client saw of one request; times in seconds from sending."""

    token_times: list[float] = field(default_factory=list)
    seconds: float = 0.0
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    error: str | None = None


async def ask(client: httpx.AsyncClient, model: str, prompt: str, num_output: int, seed: int) -> Answer:
    """Stream one completion of ``num_output`` tokens and note when each chunk came."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": num_output,
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
            async for line in response.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    answer.error = str(chunk["error"])
                    return answer
                if chunk.get("usage"):
                    answer.num_prompt_tokens = chunk["usage"]["prompt_tokens"]
                    answer.num_tokens = chunk["usage"]["completion_tokens"]
                if chunk["choices"]:
                    answer.token_times.append(time.perf_counter() - start)
    except httpx.HTTPError as error:
        answer.error = f"{type(error).__name__}: {error}"
    answer.seconds = time.perf_counter() - start
    return answer


async def run_level(
    client: httpx.AsyncClient,
    model: str,
    concurrency: int,
    num_requests: int,
    num_words: int,
    num_output: int,
    seed: int,
) -> dict[str, object]:
    """Send ``num_requests`` from ``concurrency`` clients; return one row of the report."""
    rng = random.Random(f"{seed}-{concurrency}")
    prompts = [" ".join(rng.choices(WORDS, k=num_words)) for _ in range(num_requests + concurrency)]
    await asyncio.gather(*(ask(client, model, prompt, 4, seed) for prompt in prompts[num_requests:]))
    waiting = iter(list(enumerate(prompts[:num_requests])))
    answers: list[Answer] = []

    async def work() -> None:
        for index, prompt in waiting:
            answers.append(await ask(client, model, prompt, num_output, seed + index))

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    seconds = time.perf_counter() - start
    good = [answer for answer in answers if answer.error is None and answer.token_times]
    gaps = [b - a for answer in good for a, b in zip(answer.token_times, answer.token_times[1:], strict=False)]
    per_token = [
        (answer.token_times[-1] - answer.token_times[0]) / (answer.num_tokens - 1)
        for answer in good
        if answer.num_tokens > 1
    ]
    return {
        "concurrency": concurrency,
        "requests": len(answers),
        "errors": sorted({answer.error for answer in answers if answer.error}),
        "prompt_tokens": sum(answer.num_prompt_tokens for answer in good),
        "output_tokens": sum(answer.num_tokens for answer in good),
        "seconds": round(seconds, 3),
        "output_tokens_per_second": round(sum(answer.num_tokens for answer in good) / seconds, 2),
        "requests_per_second": round(len(good) / seconds, 3),
        "ttft_seconds": spread([answer.token_times[0] for answer in good]),
        "tpot_seconds": spread(per_token),
        "itl_seconds": spread(gaps),
    }


def spread(values: list[float]) -> dict[str, float] | None:
    """Median, 95th and 99th percentile, largest; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    at = {p: ordered[min(len(ordered) - 1, int(p / 100 * len(ordered)))] for p in (95, 99)}
    median = statistics.median(ordered)
    return {name: round(v, 6) for name, v in (("p50", median), ("p95", at[95]), ("p99", at[99]), ("max", ordered[-1]))}


async def run(options: argparse.Namespace) -> dict[str, object]:
    """Measure every level and return the report."""
    key = os.environ.get("TRITSERVE_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=options.url, headers=headers, timeout=httpx.Timeout(30, read=900), limits=limits, trust_env=False
    ) as client:
        model = (await client.get("/v1/models")).raise_for_status().json()["data"][0]["id"]
        rows = [
            await run_level(client, model, level, options.requests, options.words, options.output, options.seed)
            for level in options.concurrency
        ]
        properties = await client.get("/props")
    return {
        "client": {"python": platform.python_version(), "system": platform.platform()},
        "server": properties.json() if properties.status_code == 200 else None,
        "settings": {name: getattr(options, name) for name in ("requests", "words", "output", "seed")},
        "rows": rows,
    }


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description="Load a running server; JSON on standard output.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--concurrency", default="1,4,16", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--requests", default=32, type=int, help="requests per level")
    parser.add_argument("--words", default=128, type=int, help="words of a prompt")
    parser.add_argument("--output", default=64, type=int, help="tokens of an answer")
    parser.add_argument("--seed", default=1, type=int)
    report = asyncio.run(run(parser.parse_args()))
    json.dump(report, sys.stdout, indent=2)
    print()
    rows = report["rows"]
    if isinstance(rows, list) and any(row["errors"] for row in rows):
        sys.exit("some requests failed; see errors")


if __name__ == "__main__":
    main()
