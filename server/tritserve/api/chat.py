"""POST /v1/chat/completions."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from tritserve.api.body import read_body
from tritserve.api.chat_answer import ChatShape, ChatWriter
from tritserve.api.convert import check_model, convert_options, convert_prompts, limit_tokens
from tritserve.api.generate import Run
from tritserve.api.identity import new_identity
from tritserve.api.messages import template_messages
from tritserve.api.meter import Meter
from tritserve.api.parameters import CHAT_UNSUPPORTED, sort_out_body
from tritserve.api.prompts import chat_prompt
from tritserve.api.respond import metered, respond
from tritserve.api.schemas.chat import ChatBody
from tritserve.api.structured import check_demand, demand_of
from tritserve.api.tools import sort_out_tools, tool_use
from tritserve.errors import InvalidRequest

if TYPE_CHECKING:
    from tritserve.api.convert import Options
    from tritserve.api.front import Front
    from tritserve.protocol import SamplingParams

router = APIRouter()


@router.post("/v1/chat/completions")
async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation."""
    front: Front = request.app.state.front
    meter = Meter(front.telemetry, "chat", front.model.names[0], request)
    with metered(meter):
        body = await read_body(request, ChatBody, front.settings.max_json_depth)
        meter.stream = bool(body.stream)
        ignored = sort_out_body(body, CHAT_UNSUPPORTED, strict=front.settings.strict_parameters)
        ignored += sort_out_tools(body, strict=front.settings.strict_parameters)
        identity = new_identity("chatcmpl-", check_model(body.model, front.model), front.system_fingerprint)
        begun = await begin_chat(front, body, meter)
        shape = ChatShape(
            num_choices=begun.run.num_choices,
            num_top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            include_usage=body.stream_options is not None and bool(body.stream_options.include_usage),
            prompt_ids=begun.prompt_ids if body.return_token_ids else None,
            on_calls=meter.made_calls if begun.may_call else None,
        )
        writer = ChatWriter(identity, shape, front.model.text.tokenizer)
    return await respond(request, begun.run, writer, [*ignored, *begun.ignored])


@dataclass(frozen=True, slots=True)
class BegunChat:
    """A conversation in the pool, and what its first choice is sampled with. ``ignored`` are the names in its messages that do nothing;
    ``may_call``: the answer may hold calls of functions."""

    run: Run
    sampling: SamplingParams
    prompt_ids: list[int]
    ignored: list[str]
    may_call: bool


async def begin_chat(front: Front, body: ChatBody, meter: Meter) -> BegunChat:
    """Encode a conversation and submit it. Raises InvalidRequest, ContextTooLong, Unavailable, and what ``Pool.submit`` does."""
    options = _options(body, front)
    functions, demand = tool_use(body, demand_of(body))
    messages, ignored = template_messages(body, front.settings)
    prompt = await chat_prompt(front, body, messages, functions)
    grammar = await check_demand(front, body, demand)
    requests = convert_prompts(
        [prompt.ids],
        options,
        front.settings,
        max_model_len=front.max_model_len(),
        request_id=meter.request_id,
        key_name=meter.key_name,
        param="messages",
        grammar=grammar,
    )
    run = Run(front, options.rules, meter, keep_tokens=bool(body.logprobs or body.return_token_ids))
    await run.start(requests)
    return BegunChat(run, options.choices[0], prompt.ids, ignored, bool(functions))


def _options(body: ChatBody, front: Front) -> Options:
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs: only allowed when logprobs is true.", param="top_logprobs")
    is_new_name = body.max_completion_tokens is not None
    asked = body.max_completion_tokens if is_new_name else body.max_tokens
    param = "max_completion_tokens" if is_new_name else "max_tokens"
    return convert_options(
        body,
        front.model,
        front.settings,
        fresh_seed=secrets.randbits(64),
        max_tokens=limit_tokens(asked, front.settings, default=None, param=param),
        num_top_logprobs=(body.top_logprobs or 0) if body.logprobs else -1,
    )
