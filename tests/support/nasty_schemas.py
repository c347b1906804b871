"""JSON schemas of growing nastiness, drawn from a seed; every one of them can be satisfied."""

from __future__ import annotations

import random
from typing import Any

_NAMES = [
    "name",
    "age",
    "a b",
    "ünï",
    "x/y",
    "~0",
    'quote"d',
    "back\\slash",
    "猫",
    "",
    "$ref",
    "type",
    "0",
    "very_long_property_name_" * 3,
]
_WORDS = ["red", "green", "", " ", "\n", "日本", "\U0001f408", 'say "hi"', "\\", "\u0000", "null", "1"]
_PATTERNS = ["^[a-z]{2,5}$", "^\\d{3}-\\d{4}$", "^(foo|bar)+$", '^[^"\\\\]{0,8}$', "^[A-F0-9]{4}$", "^é{1,3}$"]
_FORMATS = ["date", "time", "uuid", "ipv4", "date-time"]


def nasty_schema(seed: int) -> dict[str, Any]:
    """Return an object schema; the seed also says how deep and odd it may be."""
    rng = random.Random(seed)
    depth = 1 + seed % 4
    schema = _object(rng, depth)
    if seed % 5 == 4:
        schema["$defs"] = {"node": _node(rng), "leaf": _leaf(rng)}
        schema["properties"]["tree"] = {"$ref": "#/$defs/node"}
        schema["properties"]["leaf"] = {"$ref": "#/$defs/leaf"}
        schema["required"] = [*schema["required"], "leaf"]
    return schema


def _node(rng: random.Random) -> dict[str, Any]:
    """A tree: it refers to itself, but need not go on."""
    return {
        "type": "object",
        "properties": {
            "value": _leaf(rng),
            "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
        },
        "required": ["value"],
        "additionalProperties": False,
    }


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(_NAMES, rng.randint(1, 4))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _any(rng, depth - 1) for name in names},
        "required": [name for name in names if rng.random() < 0.7],
        "additionalProperties": False,
    }
    if rng.random() < 0.1:
        schema["additionalProperties"] = {"type": "integer", "minimum": 0, "maximum": 9}
    return schema


def _any(rng: random.Random, depth: int) -> dict[str, Any]:
    if depth <= 0:
        return _leaf(rng)
    match rng.randrange(6):
        case 0:
            return _object(rng, depth)
        case 1:
            least = rng.randint(0, 2)
            return {
                "type": "array",
                "items": _any(rng, depth - 1),
                "minItems": least,
                "maxItems": least + rng.randint(0, 2),
            }
        case 2:
            items = [_any(rng, depth - 1) for _ in range(rng.randint(1, 3))]
            return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
        case 3:
            return {"anyOf": [_any(rng, depth - 1) for _ in range(rng.randint(1, 3))]}
        case 4:
            return {"anyOf": [_leaf(rng), {"type": "null"}]}
        case _:
            return _leaf(rng)


def _leaf(rng: random.Random) -> dict[str, Any]:
    match rng.randrange(10):
        case 0:
            low = rng.randint(-50, 50)
            return {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 1000)}
        case 1:
            low = rng.randint(-5, 5)
            return {"type": "number", "exclusiveMinimum": low, "maximum": low + rng.randint(1, 9)}
        case 2:
            return {"type": "integer", "multipleOf": rng.choice([2, 5, 7]), "minimum": 0, "maximum": 700}
        case 3:
            return {
                "enum": rng.sample([*_WORDS, 0, -1.5, True, None, [], {}, [1, "a"], {"k": [None]}], rng.randint(1, 6))
            }
        case 4:
            return {"const": rng.choice([*_WORDS, 42, False, [1, [2]], {"deep": {"er": []}}])}
        case 5:
            least = rng.randint(0, 4)
            return {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 8)}
        case 6:
            return {"type": "string", "pattern": rng.choice(_PATTERNS)}
        case 7:
            return {"type": "string", "format": rng.choice(_FORMATS)}
        case 8:
            return {"type": rng.choice([["boolean", "null"], "boolean", "null"])}
        case _:
            return {"type": "string", "maxLength": rng.randint(0, 12)}
