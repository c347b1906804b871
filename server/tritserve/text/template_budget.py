"""What one compilation or rendering of a chat template may cost, counted in steps.

A step is a loop iteration, a call, an operation, or a share of the characters or items that one of these made; the count does not depend on the
machine, so the same request is refused everywhere or nowhere. The CPU clock of the thread is a second bound, for what the count underestimates.
"""

from __future__ import annotations

import time
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

MAX_STEPS = 400_000
MAX_CPU_SECONDS = 2.0
MAX_CHARS = 5 * 2**20
MAX_ITEMS = 200_000
_CHARS_PER_STEP = 256
_ITEMS_PER_STEP = 16
_STEPS_PER_CLOCK = 64


class TemplateLimit(Exception):  # the name of a bound, not of a mistake
    """A template does more than one rendering may."""


class _Budget:
    """The steps and the CPU time left."""

    def __init__(self) -> None:
        self.steps = MAX_STEPS
        self.next_look = MAX_STEPS
        self.deadline = time.thread_time() + MAX_CPU_SECONDS

    def spend(self, steps: int) -> None:
        """Take ``steps``. Raises TemplateLimit when none are left."""
        self.steps -= steps
        if self.steps <= self.next_look:
            self.next_look = self.steps - _STEPS_PER_CLOCK
            if self.steps < 0 or time.thread_time() > self.deadline:
                raise TemplateLimit(f"it takes more than {MAX_STEPS} steps or {MAX_CPU_SECONDS:g} s")


_current: ContextVar[_Budget] = ContextVar("template_budget")


@contextmanager
def template_budget() -> Iterator[None]:
    """Give the block a fresh budget."""
    token = _current.set(_Budget())
    try:
        yield
    finally:
        _current.reset(token)


def tick(steps: int = 1) -> None:
    """Spend steps. Raises TemplateLimit; LookupError outside of ``template_budget``."""
    _current.get().spend(steps)


def spend(value: T) -> T:
    """Pay for an operation by the size of its result, and return that. Raises TemplateLimit if the result is too large."""
    if isinstance(value, str):
        check_size(len(value), MAX_CHARS, "characters")
        tick(1 + len(value) // _CHARS_PER_STEP)
    elif isinstance(value, (list, tuple, dict)):
        check_size(len(value), MAX_ITEMS, "items")
        tick(1 + len(value) // _ITEMS_PER_STEP)
    else:
        tick()
    return value


def check_size(size: int, limit: int, unit: str) -> None:
    """Raise TemplateLimit if something would become too large."""
    if size > limit:
        raise TemplateLimit(f"it makes a value of more than {limit} {unit}")


def spend_deep(value: T) -> T:
    """Pay for an operation that walks through all of ``value``, and return it.

    A list that holds the same list twice, forty times over, is small in memory and without end to print or compare.
    """
    pending: list[object] = [value]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            pending.extend(node.keys())
            pending.extend(node.values())
        elif isinstance(node, (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)):
            pending.extend(node)
        spend(node)
    return value
