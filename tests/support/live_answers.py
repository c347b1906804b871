"""Ask a running server for an answer down to its bits, and read streams while something happens to the server."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

PROMPTS = (
    "Once upon a time there was a little dog named Max.",
    "The moon is",
    "Tom and Anna went to the park. They saw a big tree and",
    "How are you? I am",
    "One day a girl named Lily found a needle in her room. She knew it was difficult to play with it because it was",
    "It was raining and",
    '"Look!" said the bear. "',
    "Mum made a cake, and the cat",
)


def request_of(index: int, **changes: Any) -> dict[str, Any]:
    """Return the ``index``-th of the requests that the tests compare: text completions, sampled, with everything that can be compared."""
    return {
        "model": "demo",
        "prompt": PROMPTS[index % len(PROMPTS)],
        "seed": 1000 + index,
        "temperature": 1.0,
        "top_p": 0.95,
        "max_tokens": 48,
        "ignore_eos": True,
        "logprobs": 2,
        "return_token_ids": True,
        **changes,
    }


@dataclass
class Bits:
    """What must not change: text, token ids, log-probabilities, the end."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    token_logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[dict[str, float]] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, choice: dict[str, Any]) -> None:
        """Take a whole choice or the next piece of one."""
        self.text += choice["text"]
        self.token_ids += choice.get("token_ids") or []
        self.finish_reason = choice["finish_reason"] or self.finish_reason
        if choice["logprobs"] is not None:
            self.token_logprobs += choice["logprobs"]["token_logprobs"]
            self.top_logprobs += choice["logprobs"]["top_logprobs"]


def ask(client: httpx.Client, body: dict[str, Any]) -> Bits:
    """Return the whole answer."""
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    bits = Bits()
    bits.add(answer.json()["choices"][0])
    return bits


def read(client: httpx.Client, body: dict[str, Any], on_token: Callable[[], None] = lambda: None) -> Bits:
    """Read the answer as a stream; ``on_token`` is called when a piece has arrived."""
    bits = Bits()
    with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        for event in events(response):
            assert "error" not in event, event
            for choice in event["choices"]:
                bits.add(choice)
                on_token()
    return bits


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream, which must end with [DONE]."""
    is_done = False
    for line in response.iter_lines():
        if line == "data: [DONE]":
            is_done = True
        elif line.startswith("data: "):
            assert not is_done
            yield json.loads(line.removeprefix("data: "))
    assert is_done, "the stream ended without [DONE]"
