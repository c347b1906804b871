"""Progress of what takes its time: a bar on a terminal, one log line elsewhere. Goes to standard error; output stays clean."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tritserve.model.pack import Progress

logger = logging.getLogger(__name__)


@contextmanager
def conversion_progress(source: Path) -> Iterator[Progress]:
    """Yield the callback that a conversion reports to. Nothing is shown, nor imported, before it is first called."""
    with ExitStack() as stack:
        update: Callable[[str, int, int], None] | None = None

        def show(what: str, done: int, total: int) -> None:
            nonlocal update
            if update is None:
                update = _open_bar(stack) if sys.stderr.isatty() else _say_once(source)
            update(what, done, total)

        yield show


def _open_bar(stack: ExitStack) -> Callable[[str, int, int], None]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:24}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
    task = bar.add_task("converting", total=None)

    def update(what: str, done: int, total: int) -> None:
        bar.update(task, description=what, completed=done, total=total)

    return update


def _say_once(source: Path) -> Callable[[str, int, int], None]:
    logger.info("converting %s, once: the packed model is kept in the cache folder", source)
    return lambda what, done, total: None
