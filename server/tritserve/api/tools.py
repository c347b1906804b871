"""``tools``, ``tool_choice`` and ``parallel_tool_calls``: which functions the model is told of, and the grammar that its answer keeps to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from tritserve.api.parameters import sort_out
from tritserve.api.structured import Demand
from tritserve.errors import InvalidRequest
from tritserve.protocol import Grammar
from tritserve.text.tools import Function, call_grammar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritserve.api.schemas.chat import ConversationBody, Tool


_IGNORABLE = frozenset({"cache_control"})


class ToolUse(NamedTuple):
    """``functions`` are shown to the model; with any, the answer may hold calls. ``demand``: what the answer must conform to, if anything."""

    functions: list[Function]
    demand: Demand | None


def tool_use(body: ConversationBody, demand: Demand | None) -> ToolUse:
    """Return what a request's tools come to; ``demand`` is what it asks of its answer otherwise. Raises InvalidRequest."""
    functions = [_function(tool, index) for index, tool in enumerate(body.tools or [])]
    choice = "auto" if body.tool_choice is None else body.tool_choice.type
    if not functions:
        if choice in ("required", "function"):
            raise InvalidRequest("tool_choice: only allowed with tools.", param="tool_choice")
        return ToolUse([], demand)
    names = [function.name for function in functions]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidRequest(
                f"tools[{index}].function.name: each function needs a name of its own.", param=f"tools[{index}]"
            )
    if choice == "none":
        return ToolUse([], demand)
    callable_ = functions if choice != "function" else [functions[names.index(_chosen_name(body, names))]]
    many = choice != "function" and body.parallel_tool_calls is not False
    source = call_grammar(callable_, must_call=choice != "auto", many=many, otherwise=_otherwise(demand))
    return ToolUse(functions, Demand(Grammar("lark", source), "tools"))


def sort_out_tools(body: ConversationBody, *, strict: bool) -> list[str]:
    """Return the names that are ignored of tools and the choice among them. Raises InvalidRequest for unknown ones in strict mode."""
    ignored = [] if body.tools or body.parallel_tool_calls is None else ["parallel_tool_calls"]
    for tool in body.tools or []:
        ignored += sort_out(tool.model_extra, {}, _IGNORABLE, strict=strict, prefix="tools.")
        ignored += sort_out(tool.function.model_extra, {}, frozenset(), strict=strict, prefix="tools.function.")
    if body.tool_choice is not None:
        ignored += sort_out(body.tool_choice.model_extra, {}, frozenset(), strict=strict, prefix="tool_choice.")
    return ignored


def _function(tool: Tool, index: int) -> Function:
    given = tool.function
    if given.parameters is not None and given.parameters.get("type", "object") != "object":
        param = f"tools[{index}].function.parameters"
        raise InvalidRequest(f"{param}: must be the schema of an object.", param=param)
    return Function(given.name, given.description, given.parameters or None)


def _chosen_name(body: ConversationBody, names: list[str]) -> str:
    chosen = None if body.tool_choice is None else body.tool_choice.function
    if chosen is None or chosen.name not in names:
        raise InvalidRequest("tool_choice.function.name: must be the name of one of tools.", param="tool_choice")
    return chosen.name


def _otherwise(demand: Demand | None) -> Mapping[str, object] | None:
    """Return the schema of an answer without calls, where one is asked for."""
    if demand is None:
        return None
    if demand.grammar.kind != "json_schema":
        raise InvalidRequest("tools: cannot be used together with a regex, choice or grammar.", param="tools")
    schema: Mapping[str, object] = json.loads(demand.grammar.source)
    return schema
