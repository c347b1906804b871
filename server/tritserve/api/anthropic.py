"""POST /v1/messages and POST /v1/messages/count_tokens: Anthropic's shapes over the same chat as /v1/chat/completions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from fastapi import APIRouter, Request, Response

from tritserve.api.anthropic_answer import MessageShape, MessageWriter
from tritserve.api.anthropic_chat import conversation
from tritserve.api.body import check_body, read_body
from tritserve.api.chat import begin_chat
from tritserve.api.convert import check_model
from tritserve.api.identity import new_identity
from tritserve.api.messages import template_messages
from tritserve.api.meter import Meter
from tritserve.api.parameters import CHAT_EXTENSIONS, PART_IGNORABLE, ignored_headers, sort_out
from tritserve.api.prompts import chat_prompt
from tritserve.api.respond import JSON_MEDIA_TYPE, metered, respond
from tritserve.api.schemas.anthropic import CountTokensBody, MessagesBody, TokensCount
from tritserve.api.schemas.chat import ChatBody, ConversationBody
from tritserve.api.segments import Segmenter
from tritserve.api.tools import tool_use

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tritserve.api.front import Front
    from tritserve.api.schemas.common import WireModel

router = APIRouter()

_IGNORABLE = frozenset(
    {"cache_control", "diagnostics", "inference_geo", "metadata", "service_tier", "speed", "user_profile_id"}
)
_DISABLED = {"type": "disabled"}
_UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "container": (),
    "context_management": (),
    "mcp_servers": ([],),
    "output_format": (),
    "thinking": (_DISABLED,),
}
_PART_IGNORABLE = frozenset({"cache_control", "effort"})
_BLOCK_UNSUPPORTED: Mapping[str, tuple[object, ...]] = {"citations": ([],)}


@router.post("/v1/messages")
async def create_message(request: Request) -> Response:
    """Answer a conversation."""
    front: Front = request.app.state.front
    meter = Meter(front.telemetry, "messages", front.model.names[0], request)
    with metered(meter):
        body = await read_body(request, MessagesBody, front.settings.max_json_depth)
        meter.stream = bool(body.stream)
        name = check_model(body.model, front.model)
        passed_on = {key: value for key, value in (body.model_extra or {}).items() if key in CHAT_EXTENSIONS}
        ignored = _sort_out(body, front, known=passed_on.keys())
        chat = check_body(
            {
                **passed_on,
                **conversation(body),
                "max_tokens": body.max_tokens,
                "stop": body.stop_sequences,
                "temperature": body.temperature,
                "top_p": body.top_p,
                "top_k": body.top_k,
            },
            ChatBody,
        )
        begun = await begin_chat(front, chat, meter)
        shape = MessageShape(
            num_prompt_tokens=len(begun.prompt_ids),
            max_tokens=body.max_tokens,
            stop_sequences=tuple(body.stop_sequences or ()),
            request_id=meter.request_id,
        )
        segmenter = Segmenter(meter.made_calls if begun.may_call else None)
        writer = MessageWriter(new_identity("msg_", name, front.system_fingerprint), shape, segmenter)
    return await respond(request, begun.run, writer, ignored)


@router.post("/v1/messages/count_tokens")
async def count_tokens(request: Request) -> Response:
    """Count the tokens of a conversation as ``create_message`` would send it to the model."""
    front: Front = request.app.state.front
    body = await read_body(request, CountTokensBody, front.settings.max_json_depth)
    check_model(body.model, front.model)
    ignored = _sort_out(body, front)
    chat = check_body(conversation(body), ConversationBody)
    messages, _ = template_messages(chat, front.settings)
    prompt = await chat_prompt(front, chat, messages, tool_use(chat, None).functions)
    answer = msgspec.json.encode(TokensCount(len(prompt.ids)))
    return Response(answer, media_type=JSON_MEDIA_TYPE, headers=ignored_headers(ignored))


def _sort_out(body: CountTokensBody, front: Front, known: Collection[str] = ()) -> list[str]:
    """Return the names that are ignored of a body and what is in it. Raises InvalidRequest for the others."""
    strict = front.settings.strict_parameters
    extra = {name: value for name, value in (body.model_extra or {}).items() if name not in known}
    ignored = sort_out(extra, _UNSUPPORTED, _IGNORABLE, strict=strict)
    blocks = [*(body.system or ()), *(block for turn in body.messages for block in turn.content)]
    for block in [*blocks, *(inner for outer in blocks for inner in outer.content or ())]:
        ignored += sort_out(
            block.model_extra, _BLOCK_UNSUPPORTED, PART_IGNORABLE, strict=strict, prefix="messages.content."
        )
    parts: list[tuple[str, WireModel | None]] = [
        ("tool_choice.", body.tool_choice),
        ("output_config.", body.output_config),
    ]
    parts += [("messages.", turn) for turn in body.messages] + [("tools.", tool) for tool in body.tools or ()]
    for prefix, part in parts:
        ignored += sort_out(
            None if part is None else part.model_extra, {}, _PART_IGNORABLE, strict=strict, prefix=prefix
        )
    return ignored
