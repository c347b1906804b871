"""What an answer must conform to: ``response_format`` and ``structured_outputs`` as a grammar, tried out before anything is queued."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from tritserve.errors import InvalidRequest
from tritserve.protocol import Grammar

if TYPE_CHECKING:
    from tritserve.api.front import Front
    from tritserve.api.schemas.common import GenerationBody, ResponseFormat, StructuredOutputs

ANY_OBJECT = Grammar("json_schema", '{"type":"object"}')


class Demand(NamedTuple):
    """A grammar and the field that it comes from."""

    grammar: Grammar
    param: str


def demand_of(body: GenerationBody) -> Demand | None:
    """Return what a request demands of its answer, if anything. Raises InvalidRequest."""
    by_format = None if body.response_format is None else _by_format(body.response_format)
    by_output = None if body.structured_outputs is None else _by_output(body.structured_outputs)
    if by_format is not None and by_output is not None:
        raise InvalidRequest(
            "structured_outputs: cannot be used together with response_format.", param="structured_outputs"
        )
    return by_format or by_output


async def check_demand(front: Front, body: GenerationBody, demand: Demand | None) -> Grammar | None:
    """Try a grammar out. Raises InvalidRequest naming the field; Overloaded or Unavailable if it cannot be tried."""
    if demand is None:
        return None
    grammar, param = demand
    if body.stop:
        raise InvalidRequest(
            f"stop: cannot be used together with {param.partition('.')[0]}: what is cut off at a string does not conform.",
            param="stop",
        )
    if body.include_stop_str_in_output:
        raise InvalidRequest(
            f"include_stop_str_in_output: cannot be used together with {param.partition('.')[0]}.",
            param="include_stop_str_in_output",
        )
    num_bytes = len(grammar.source.encode("utf-8", "surrogatepass"))
    if num_bytes > front.settings.max_grammar_bytes:
        raise InvalidRequest(
            f"{param}: has {num_bytes} bytes; the limit is {front.settings.max_grammar_bytes}.", param=param
        )
    refusal = await front.pool.check_grammar(grammar)
    if refusal is not None:
        raise InvalidRequest(f"{param}: cannot be used: {refusal}.", param=param, code="invalid_grammar")
    return grammar


def schema_grammar(schema: object) -> Grammar:
    """Return the grammar of a JSON schema; the order of its properties is that of the answer."""
    return Grammar("json_schema", json.dumps(schema, ensure_ascii=False, separators=(",", ":")))


def _by_format(given: ResponseFormat) -> Demand | None:
    param = "response_format.json_schema"
    if given.json_schema is not None and given.type != "json_schema":
        raise InvalidRequest(f"{param}: only allowed where response_format.type is 'json_schema'.", param=param)
    if given.type == "text":
        return None
    if given.type == "json_object":
        return Demand(ANY_OBJECT, "response_format")
    if given.json_schema is None:
        raise InvalidRequest(f"{param}: must be given.", param=param, code="missing_required_parameter")
    if given.json_schema.schema_ is None:
        return Demand(ANY_OBJECT, param)
    return Demand(schema_grammar(given.json_schema.schema_), f"{param}.schema")


def _by_output(given: StructuredOutputs) -> Demand:
    param = "structured_outputs"
    found: list[Demand] = []
    if given.json_ is not None:
        found.append(Demand(_given_schema(given.json_, f"{param}.json"), f"{param}.json"))
    if given.regex is not None:
        found.append(Demand(Grammar("regex", given.regex), f"{param}.regex"))
    if given.choice is not None:
        found.append(Demand(Grammar("regex", "|".join(map(_literally, given.choice))), f"{param}.choice"))
    if given.grammar is not None:
        found.append(Demand(Grammar("lark", given.grammar), f"{param}.grammar"))
    if len(found) != 1:
        raise InvalidRequest(f"{param}: must have exactly one of json, regex, choice, grammar.", param=param)
    return found[0]


def _given_schema(schema: dict[str, object] | str, param: str) -> Grammar:
    if not isinstance(schema, str):
        return schema_grammar(schema)
    try:
        value = json.loads(schema)
    except (ValueError, RecursionError):
        raise InvalidRequest(f"{param}: is not JSON.", param=param) from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{param}: must be a JSON object.", param=param)
    return Grammar("json_schema", schema)


def _literally(text: str) -> str:
    """Return a regular expression that only ``text`` matches: what is not a letter or digit stands as its code point."""
    return "".join(char if char.isascii() and char.isalnum() else f"\\x{{{ord(char):X}}}" for char in text)
