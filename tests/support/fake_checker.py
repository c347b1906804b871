"""The process that tries grammars out, for the fake model; certain grammars make it misbehave as only a bug of the parser could."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from fake_runner import vocabulary

from tritserve.engine import grammar_check
from tritserve.engine.grammar import GrammarCompiler

if TYPE_CHECKING:
    from tritserve.protocol import Grammar


class Misbehaving(GrammarCompiler):
    """Does what a grammar's text says."""

    def try_out(self, grammar: Grammar) -> None:
        match grammar.source:
            case "spin":
                while True:
                    pass
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hog":
                hoard = bytearray(grammar_check.MAX_MEMORY_BYTES + 2**20)
                hoard[-1] = 1
            case "pid":
                raise grammar_check.GrammarError(str(os.getpid()))
        super().try_out(grammar)


if __name__ == "__main__":
    grammar_check.GrammarCompiler = Misbehaving  # type: ignore[misc]  # instead of the real one
    sys.exit(grammar_check.main(read=lambda path: vocabulary()))
