"""POST /v1/completions."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from tritserve.api.body import read_body
from tritserve.api.completion_answer import CompletionShape, CompletionWriter
from tritserve.api.convert import check_model, convert_options, convert_prompts, limit_tokens
from tritserve.api.generate import Run
from tritserve.api.identity import new_identity
from tritserve.api.meter import Meter
from tritserve.api.parameters import COMPLETION_UNSUPPORTED, sort_out_body
from tritserve.api.prompts import text_prompts
from tritserve.api.respond import metered, respond
from tritserve.api.schemas.completions import CompletionBody
from tritserve.api.structured import check_demand, demand_of
from tritserve.errors import InvalidRequest

if TYPE_CHECKING:
    from tritserve.api.convert import Options
    from tritserve.api.front import Front

router = APIRouter()

DEFAULT_MAX_TOKENS = 16
"""OpenAI's for this endpoint."""


@router.post("/v1/completions")
async def create_completion(request: Request) -> Response:
    """Continue one or several texts."""
    front: Front = request.app.state.front
    meter = Meter(front.telemetry, "completions", front.model.names[0], request)
    with metered(meter):
        body = await read_body(request, CompletionBody, front.settings.max_json_depth)
        meter.stream = bool(body.stream)
        ignored = sort_out_body(body, COMPLETION_UNSUPPORTED, strict=front.settings.strict_parameters)
        identity = new_identity("cmpl-", check_model(body.model, front.model), front.system_fingerprint)
        options = _options(body, front)
        demand = demand_of(body)
        prompts = await text_prompts(front, body)
        grammar = await check_demand(front, body, demand)
        requests = convert_prompts(
            [prompt.ids for prompt in prompts],
            options,
            front.settings,
            max_model_len=front.max_model_len(),
            request_id=meter.request_id,
            key_name=meter.key_name,
            param="prompt",
            grammar=grammar,
        )
        keep_tokens = body.logprobs is not None or bool(body.return_token_ids)
        run = Run(front, options.rules, meter, keep_tokens=keep_tokens)
        await run.start(requests)
        shape = CompletionShape(
            prompts=prompts,
            n=len(options.choices),
            echo=bool(body.echo),
            num_top_logprobs=body.logprobs,
            include_usage=body.stream_options is not None and bool(body.stream_options.include_usage),
            return_token_ids=bool(body.return_token_ids),
        )
        writer = CompletionWriter(identity, shape, front.model.text.tokenizer)
    return await respond(request, run, writer, ignored)


def _options(body: CompletionBody, front: Front) -> Options:
    is_new_name = body.max_completion_tokens is not None
    asked = body.max_completion_tokens if is_new_name else body.max_tokens
    param = "max_completion_tokens" if is_new_name else "max_tokens"
    if asked == 0 and not body.echo:
        raise InvalidRequest(f"{param}: may be 0 only with echo.", param=param)
    num_top = body.logprobs if body.logprobs is not None else -1
    return convert_options(
        body,
        front.model,
        front.settings,
        fresh_seed=secrets.randbits(64),
        max_tokens=limit_tokens(asked, front.settings, default=DEFAULT_MAX_TOKENS, param=param),
        num_top_logprobs=num_top,
        prompt_logprobs=num_top if body.echo else -1,
    )
