"""POST /v1/responses, stateless: OpenAI's newer shape over the same chat as /v1/chat/completions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from tritserve.api.body import check_body, read_body
from tritserve.api.chat import begin_chat
from tritserve.api.convert import check_model
from tritserve.api.identity import new_identity
from tritserve.api.meter import Meter
from tritserve.api.parameters import CHAT_EXTENSIONS, IGNORABLE, PART_IGNORABLE, sort_out, sort_out_stream_options
from tritserve.api.respond import metered, respond
from tritserve.api.responses_answer import ResponseWriter
from tritserve.api.responses_chat import conversation, shown, shown_format
from tritserve.api.schemas.chat import ChatBody
from tritserve.api.schemas.responses import ResponseAnswer, ResponsesBody
from tritserve.api.segments import Segmenter
from tritserve.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritserve.api.front import Front

router = APIRouter()

_LOGPROBS = "message.output_text.logprobs"
_PASSED_ON = CHAT_EXTENSIONS | {"stop", "top_k"}
_UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "background": (False,),
    "context_management": ([],),
    "conversation": (),
    "moderation": (),
    "previous_response_id": (),
    "prompt": (),
    "reasoning": ({},),
}
_TEXT_UNSUPPORTED: Mapping[str, tuple[object, ...]] = {"verbosity": ("medium",)}
_PART_UNSUPPORTED: Mapping[str, tuple[object, ...]] = {"annotations": ([],), "logprobs": ([],)}
_ITEM_IGNORABLE = frozenset({"id", "status", "phase"})


@router.post("/v1/responses")
async def create_response(request: Request) -> Response:
    """Answer a conversation. Nothing of it is kept."""
    front: Front = request.app.state.front
    meter = Meter(front.telemetry, "responses", front.model.names[0], request)
    with metered(meter):
        body = await read_body(request, ResponsesBody, front.settings.max_json_depth)
        meter.stream = bool(body.stream)
        name = check_model(body.model, front.model)
        passed_on = {key: value for key, value in (body.model_extra or {}).items() if key in _PASSED_ON}
        ignored = _sort_out(body, passed_on, strict=front.settings.strict_parameters)
        num_top = _num_top_logprobs(body)
        chat = check_body(
            {
                **passed_on,
                **conversation(body),
                "max_completion_tokens": body.max_output_tokens,
                "temperature": body.temperature,
                "top_p": body.top_p,
                "logprobs": num_top is not None,
                "top_logprobs": num_top,
            },
            ChatBody,
        )
        begun = await begin_chat(front, chat, meter)
        identity = new_identity("resp_", name, front.system_fingerprint)
        answer = ResponseAnswer(
            id=identity.id,
            created_at=identity.created,
            model=name,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            parallel_tool_calls=body.parallel_tool_calls is not False,
            temperature=begun.sampling.temperature,
            text={"format": shown_format(body)},
            tool_choice=body.tool_choice if isinstance(body.tool_choice, str) else shown(body.tool_choice) or "auto",
            tools=[shown(tool) for tool in body.tools or []],
            top_p=begun.sampling.top_p,
            top_logprobs=num_top or 0,
            system_fingerprint=identity.system_fingerprint,
        )
        segmenter = Segmenter(meter.made_calls if begun.may_call else None)
        writer = ResponseWriter(answer, segmenter, front.model.text.tokenizer, num_top)
    return await respond(request, begun.run, writer, ignored)


def _sort_out(body: ResponsesBody, passed_on: Mapping[str, object], *, strict: bool) -> list[str]:
    """Return the names that are ignored of a body and what is in it. Raises InvalidRequest for the others."""
    extra = {name: value for name, value in (body.model_extra or {}).items() if name not in passed_on}
    ignored = sort_out(extra, _UNSUPPORTED, IGNORABLE | {"max_tool_calls"}, strict=strict)
    ignored += sort_out_stream_options(body.stream_options, strict=strict)
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options: only allowed when stream is true.", param="stream_options")
    if body.truncation == "auto":
        raise InvalidRequest(
            "truncation: only 'disabled' is supported.", param="truncation", code="unsupported_parameter"
        )
    for index, name in enumerate(body.include or []):
        if name != _LOGPROBS:
            raise InvalidRequest(
                f"include[{index}]: only '{_LOGPROBS}' is supported.", param="include", code="unsupported_parameter"
            )
    if body.text is not None:
        ignored += sort_out(body.text.model_extra, _TEXT_UNSUPPORTED, frozenset(), strict=strict, prefix="text.")
        if body.text.format is not None:
            ignored += sort_out(body.text.format.model_extra, {}, frozenset(), strict=strict, prefix="text.format.")
    for tool in body.tools or []:
        ignored += sort_out(tool.model_extra, {}, frozenset(), strict=strict, prefix="tools.")
    for item in body.input:
        ignored += sort_out(item.model_extra, {}, _ITEM_IGNORABLE, strict=strict, prefix="input.")
        for part in [*(item.content or []), *(item.output or [])]:
            ignored += sort_out(
                part.model_extra, _PART_UNSUPPORTED, PART_IGNORABLE, strict=strict, prefix="input.content."
            )
    return ignored


def _num_top_logprobs(body: ResponsesBody) -> int | None:
    """Return how many alternatives each token gets, None for no log-probabilities at all."""
    if _LOGPROBS in (body.include or []):
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise InvalidRequest(f"top_logprobs: only allowed when include has '{_LOGPROBS}'.", param="top_logprobs")
    return None
