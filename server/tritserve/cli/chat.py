"""``tritserve chat``: talk to a running server. Starts nothing itself."""

from __future__ import annotations

import json
from collections.abc import Iterator  # noqa: TC003  # typer resolves the annotations of this module's commands
from pathlib import Path  # noqa: TC003
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.prompt import Prompt

from tritserve.errors import ServerError
from tritserve.settings import client_api_key

DEFAULT_URL = "http://127.0.0.1:8000"


app = typer.Typer(add_completion=False)


@app.command()
def chat(
    message: Annotated[str | None, typer.Argument(help="One message; without it, a conversation.")] = None,
    url: Annotated[str, typer.Option("--url", help="A running server.")] = DEFAULT_URL,
    system: Annotated[str | None, typer.Option("--system", help="System message.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1)] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", min=0, max=2)] = None,
    seed: Annotated[int | None, typer.Option("--seed")] = None,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", help="File that holds the API key (or TRITSERVE_API_KEY).")
    ] = None,
) -> None:
    """Chat with a running server, streaming."""
    url = url.rstrip("/").removesuffix("/v1")  # what OpenAI clients call base_url is meant as well
    console = Console(highlight=False)
    options = {"max_completion_tokens": max_tokens, "temperature": temperature, "seed": seed}
    messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    key = client_api_key(key_file)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=url, headers=headers, timeout=httpx.Timeout(30, read=600), trust_env=False) as client:
        model = _first_model(client, url)
        if message is not None:
            _answer(client, console, model, [*messages, {"role": "user", "content": message}], options)
            return
        console.print(f"[bold]{model}[/] at {url}. /new starts over, Ctrl-D or /quit ends.")
        _converse(client, console, model, messages, options)


def _converse(
    client: httpx.Client, console: Console, model: str, messages: list[dict[str, str]], options: dict[str, Any]
) -> None:
    opening = list(messages)
    while True:
        try:
            text = Prompt.ask("[bold cyan]you[/]", console=console).strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if text == "/quit":
            return
        if text == "/new":
            messages = list(opening)
        elif text:
            messages.append({"role": "user", "content": text})
            try:
                messages.append({"role": "assistant", "content": _answer(client, console, model, messages, options)})
            except KeyboardInterrupt:  # leaving the stream ends the generation; the conversation goes on
                console.print("[dim](stopped)[/]")
                messages.pop()


def _answer(
    client: httpx.Client, console: Console, model: str, messages: list[dict[str, str]], options: dict[str, Any]
) -> str:
    given = {name: value for name, value in options.items() if value is not None}
    body = {"model": model, "messages": messages, "stream": True, **given}
    pieces = []
    try:
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                response.read()
                raise ServerError(_error_text(response))
            for piece in _deltas(response):
                pieces.append(piece)
                console.out(piece, end="", highlight=False)
    except httpx.HTTPError as error:
        raise ServerError(f"the connection broke: {error or type(error).__name__}") from error
    console.print()
    return "".join(pieces)


def _deltas(response: httpx.Response) -> Iterator[str]:
    for line in response.iter_lines():
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            raise ServerError(f"the server ended the answer: {chunk['error'].get('message')}")
        for choice in chunk.get("choices", []):
            yield choice["delta"].get("content") or ""


def _first_model(client: httpx.Client, url: str) -> str:
    try:
        response = client.get("/v1/models")
    except httpx.HTTPError as error:
        raise ServerError(f"no server answers at {url} ({error}). Start one with: tritserve") from error
    if response.is_error:
        raise ServerError(_error_text(response))
    try:
        return str(response.json()["data"][0]["id"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ServerError(f"what answers at {url} is not an OpenAI-compatible server") from error


def _error_text(response: httpx.Response) -> str:
    try:
        return f"the server answered {response.status_code}: {response.json()['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"the server answered {response.status_code}"
