"""How JSON in answers is written: options of the grammar's parser that go with every schema, and that a client's schema cannot change."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_STYLE: dict[str, object] = {
    # A small model that may write white space without end does.
    "whitespace_pattern": r"( |\n {0,16})?",
    "whitespace_flexible": True,
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": False,
    "lenient": False,
}


def styled(schema: Mapping[str, object]) -> dict[str, object]:
    """Return a schema with these options."""
    return {**schema, "x-guidance": _STYLE}
