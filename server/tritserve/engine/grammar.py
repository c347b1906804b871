"""Grammars: what a completion must conform to, as masks of the ids that may come next.

The parser is llguidance: an Earley parser over lexemes that are derivatives of regular expressions, so no input makes it backtrack, and
every stage has a limit. It never raises: a grammar or step that breaks a limit puts a matcher into an error state, and the mask it then
gives allows the end. So the state is looked at after every mask and every token, and an error means that nothing is allowed.

Its tokenizer here is nothing but the table of the tokens' bytes. It could also force the tokens of bytes that a grammar leaves no choice
about, but needs the model's own tokenizer for that; with ``no_forcing`` the model chooses how they are cut into tokens.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper, regex_to_lark

from tritserve.engine.sampling import id_mask
from tritserve.json_style import styled

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from tritserve.protocol import Grammar
    from tritserve.vocabulary import Vocabulary

_LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,  # 20 ms
    max_grammar_size=100_000,
    max_lexer_states=20_000,  # 1 to 2 kB each
    step_lexer_fuel=200_000,  # 15 ms
    step_max_items=50_000,  # 3 ms
    max_items_in_row=2_000,
    verbose_errors=False,
)
_MAIN = '%llguidance {"no_forcing": true}\nstart: @user'
_MAX_ERROR_CHARS = 300
_fence = threading.Lock()


class GrammarError(Exception):
    """A grammar is malformed, uses what is not supported, allows nothing, or breaks a limit; the text says which, for the client."""


class _TokenTable(TokenizerWrapper):
    """What llguidance asks of a tokenizer: the tokens' bytes. One id past the model's stands for the end of a completion, whatever ids a
    request may end with."""

    def __init__(self, vocabulary: Vocabulary) -> None:  # not the parent's, which asks a tokenizer for all this
        self.is_tokenizer_wrapper = True
        self.bos_token_id = None
        end = len(vocabulary.pieces)
        self.tokens: Sequence[bytes] = [*vocabulary.pieces, b"<end>"]
        self.special_token_ids = [*sorted(vocabulary.special_ids), end]
        self.eos_token_id = end

    def __call__(self, text: bytes | str) -> list[int]:
        raise AssertionError("a grammar asked for tokens although it must force none")


class GrammarCompiler:
    """Compiles grammars for one vocabulary. The same limits hold in a worker and where grammars are checked before."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.num_ids = len(vocabulary.pieces)
        table = _TokenTable(vocabulary)
        self._tokenizer = LLTokenizer(table)
        table.tokens = ()  # the library has copied them
        text = (token for token, piece in enumerate(vocabulary.pieces) if piece and token not in vocabulary.special_ids)
        self.text_ids = id_mask(text, self.num_ids)

    def compile(self, grammar: Grammar) -> LLMatcher:
        """Return a matcher at the beginning of a completion, not to be used itself but copied. Raises GrammarError."""
        matcher = LLMatcher(self._tokenizer, _source(grammar), log_level=0, limits=_LIMITS)
        _check(matcher)
        return matcher

    def try_out(self, grammar: Grammar) -> None:
        """Compile a grammar and take its first mask: one that allows nothing shows there. Raises GrammarError."""
        matcher = Matcher(self.compile(grammar), self, stop_token_ids=(), allowed=None)
        matcher.fill()
        if matcher.error is not None:
            raise GrammarError(matcher.error)
        if not (matcher.is_complete or matcher.mask.any()):
            raise GrammarError("no text conforms to it")


class Matcher:
    """One completion against its grammar.

    ``mask`` (ceil(vocab / 32),) uint32: the ids that may come next, good while ``ready`` (1,) int32 is not 0. ``is_complete``: whether
    the completion conforms as it is; ``error``: why it cannot go on; then nothing is allowed. ``mask_seconds``: what the last mask took.
    """

    def __init__(
        self,
        prototype: LLMatcher,
        compiler: GrammarCompiler,
        *,
        stop_token_ids: Iterable[int],
        allowed: NDArray[np.uint32] | None,
    ) -> None:
        self.is_complete = False
        self.error: str | None = None
        self._matcher = prototype.deep_copy()
        num_ids = compiler.num_ids
        self._buffer = np.zeros(num_ids // 32 + 1, np.uint32)  # with the bit of the end
        self.mask = self._buffer[: -(-num_ids // 32)]
        self.ready = np.zeros(1, np.int32)
        self._end_word, self._end_bit = num_ids // 32, np.uint32(1 << num_ids % 32)
        self._stop_ids = id_mask(stop_token_ids, num_ids)
        self._text_ids = compiler.text_ids & ~self._stop_ids
        self._allowed = allowed

    def begin(self) -> None:
        """Declare the mask stale, before another thread is asked to fill it."""
        self.ready[0] = 0

    def fill(self) -> None:
        """Compute the mask and declare it ready; whatever goes wrong, it then allows nothing."""
        try:
            self._fill()
        except BaseException as error:  # a panic of the library's Rust code is no Exception
            self._fail(f"it fails with {type(error).__name__}")
        # Whoever sees the flag must see the mask, also where the processor reorders stores: nothing moves up past taking a lock, nor down
        # past giving it back.
        for _ in range(2):
            with _fence:
                pass
        self.ready[0] = 1

    def accept(self, tokens: Sequence[int]) -> bool:
        """Go on by tokens of the completion; False if the grammar refuses one of them, or an error shows."""
        if self.error is None and not (self._matcher.consume_tokens(list(tokens)) and not self._matcher.is_error()):
            self._fail(_reason(self._matcher))
        return self.error is None

    def _fill(self) -> None:
        if self.error is None:
            self._matcher.unsafe_compute_mask_ptr(self._buffer.ctypes.data, self._buffer.nbytes)
            if self._matcher.is_error():
                self._fail(_reason(self._matcher))
        if self.error is not None:
            self._buffer[:] = 0
            return
        self.is_complete = bool(self._buffer[self._end_word] & self._end_bit)
        self._buffer[self._end_word] &= ~self._end_bit
        self.mask &= self._text_ids
        if self.is_complete:
            self.mask |= self._stop_ids
        if self._allowed is not None:
            self.mask &= self._allowed

    def _fail(self, reason: str) -> None:
        self.error = reason
        self.is_complete = False
        self._buffer[:] = 0


def _source(grammar: Grammar) -> str:
    """Return llguidance's own description of a grammar: the client's, under a rule that sets the options."""
    user: dict[str, object]
    match grammar.kind:
        case "json_schema":
            user = {"json_schema": _schema(grammar.source)}
        case "regex":
            # ASCII classes: who asks for \d wants no Arabic digit.
            pattern = regex_to_lark(grammar.source.replace("\n", "\\n"), use_ascii="dws")
            user = {"lark_grammar": f"start: /{pattern}/"}
        case "lark":
            user = {"lark_grammar": grammar.source}
    return json.dumps({"grammars": [{"name": "main", "lark_grammar": _MAIN}, {"name": "user", **user}]})


def _schema(source: str) -> dict[str, object]:
    try:
        schema = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise GrammarError("it is not JSON") from error
    if not isinstance(schema, dict):
        raise GrammarError("a schema must be a JSON object")
    return styled(schema)


def _check(matcher: LLMatcher) -> None:
    if matcher.is_error():
        raise GrammarError(_reason(matcher))


def _reason(matcher: LLMatcher) -> str:
    """Return the first line of an error, without the library's internals."""
    text = matcher.get_error().replace("<non-verbose/>", "").strip() or "it meets a limit"
    if text.startswith("panic"):
        return "it fails in the parser"
    line = " ".join(text.split())
    return line if len(line) <= _MAX_ERROR_CHARS else line[:_MAX_ERROR_CHARS] + "..."
