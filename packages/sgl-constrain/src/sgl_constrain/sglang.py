# SPDX-License-Identifier: Apache-2.0
"""SGLang's constrained decoding on grammars of this library: `ConstrainGrammar` and `ConstrainBackend`.

Written against the interface of SGLang 0.5.23: `plug_in` adds `sgl-constrain` to what `--grammar-backend` can
be. SGLang and torch are not dependencies of this distribution; importing this module needs both.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from sglang.srt.constrained.base_grammar_backend import (  # type: ignore[import-not-found]
    BaseGrammarBackend,
    BaseGrammarObject,
    InvalidGrammarObject,
    register_grammar_backend,
)
from sglang.srt.constrained.reasoner_grammar_backend import (  # type: ignore[import-not-found]
    ReasonerGrammarBackend,
)
from sglang.srt.parser.reasoning_parser import ReasoningParser  # type: ignore[import-not-found]
from sglang.srt.runtime_context import get_serving  # type: ignore[import-not-found]
from sglang.srt.server_args import add_grammar_backend_choices  # type: ignore[import-not-found]

from sgl_constrain.compiler import Compiler
from sgl_constrain.errors import ConstrainError
from sgl_constrain.gbnf import is_gbnf
from sgl_constrain.grammar import Grammar
from sgl_constrain.matcher import Matcher
from sgl_constrain.scores import forbidden
from sgl_constrain.sources import huggingface_tokens
from sgl_constrain.structural import structural_tag
from sgl_constrain.vocabulary import Vocabulary

NAME = "sgl-constrain"
_ANY_JSON = "$$ANY$$"  # the schema SGLang asks for when a request wants some JSON
_NO_STATE = -1  # `jump_and_retokenize` is told the tokens, and needs no state


class _VocabMasks:
    """How masks are made, moved and applied: the same for every grammar, and for the backend."""

    @staticmethod
    def allocate_vocab_mask(vocab_size: int, batch_size: int, device: Any) -> Any:
        """[batch_size, ceil(vocab_size / 32)] int32, everything allowed; on the CPU, where it is filled."""
        torch = importlib.import_module("torch")
        pinned = torch.cuda.is_available()
        return torch.full((batch_size, (vocab_size + 31) // 32), -1, dtype=torch.int32, pin_memory=pinned)

    @staticmethod
    def reset_vocab_mask(vocab_mask: Any) -> None:
        """In place: everything is allowed."""
        vocab_mask.fill_(-1)

    @staticmethod
    def move_vocab_mask(vocab_mask: Any, device: Any) -> Any:
        return vocab_mask.to(device, non_blocking=True)

    @staticmethod
    def apply_vocab_mask(logits: Any, vocab_mask: Any) -> None:
        """In place: logits [batch, V] of forbidden tokens become -inf; vocab_mask on the same device."""
        logits.masked_fill_(forbidden(vocab_mask, int(logits.shape[-1])), float("-inf"))


class ConstrainGrammar(_VocabMasks, BaseGrammarObject):  # type: ignore[misc]
    """One request. Not thread-safe."""

    def __init__(self, matcher: Matcher) -> None:
        super().__init__()
        self._matcher = matcher

    def accept_token(self, token: int) -> None:
        """Go on with `token`; nothing happens after the end. Raises ConstrainError, a ValueError."""
        if self._matcher.is_terminated():
            return
        self.current_token = token
        if not (0 <= token < self._matcher.grammar.vocabulary.size and self._matcher.accept_token(token)):
            raise ConstrainError(f"token {token} is not allowed by the grammar, yet it was generated")

    def rollback(self, k: int) -> None:
        """Take back the last `k` accepted tokens. Raises ValueError when there are fewer."""
        self._matcher.rollback(k)

    def is_terminated(self) -> bool:
        """Has a token that ends the text been accepted?"""
        return self._matcher.is_terminated()

    def fill_vocab_mask(self, vocab_mask: Any, idx: int) -> None:
        """vocab_mask [batch, words] int32 on the CPU: row `idx` becomes the mask of the next token.

        Where the mask is narrower than the vocabulary, the tokens beyond it do not exist for the model.
        """
        bits = self._matcher.grammar.mask(self._matcher.state)
        row = vocab_mask.numpy()[idx]
        width = min(len(row), len(bits))
        row[:width] = bits[:width]
        row[width:] = 0

    def copy(self) -> ConstrainGrammar:
        """An independent one at the same point."""
        return ConstrainGrammar(self._matcher.fork())

    def try_jump_forward(self, tokenizer: Any) -> tuple[list[int], str] | None:
        """([], the text that must follow), or None; None inside a character, whose rest is not yet text."""
        try:
            text = self._matcher.jump_forward_bytes().decode()
        except UnicodeDecodeError:
            return None
        return ([], text) if text else None

    def jump_forward_str_state(self, helper: tuple[list[int], str]) -> tuple[str, int]:
        return helper[1], _NO_STATE

    def jump_and_retokenize(
        self, old_output_ids: list[int], new_output_ids: list[int], next_state: int
    ) -> None:
        """The text so far is written in other tokens. Raises ConstrainError when they are not allowed."""
        same = 0
        while same < min(len(old_output_ids), len(new_output_ids)) and (
            old_output_ids[same] == new_output_ids[same]
        ):
            same += 1
        self._matcher.rollback(len(old_output_ids) - same)
        for token in new_output_ids[same:]:
            self.accept_token(token)


class ConstrainBackend(_VocabMasks, BaseGrammarBackend):  # type: ignore[misc]
    """One for a scheduler. What cannot be compiled becomes an `InvalidGrammarObject` with the reason."""

    def __init__(self, compiler: Compiler, *, compact: bool = False, max_whitespace: int = 20) -> None:
        super().__init__()
        self._compiler = compiler
        self._compact = compact
        self._max_whitespace = max_whitespace

    def dispatch_json(self, key_string: str) -> Any:
        return self._made(
            lambda: self._compiler.json_schema(
                True if key_string == _ANY_JSON else key_string,
                compact=self._compact,
                max_whitespace=self._max_whitespace,
            )
        )

    def dispatch_regex(self, key_string: str) -> Any:
        return self._made(lambda: self._compiler.regex(key_string))

    def dispatch_ebnf(self, key_string: str) -> Any:
        """A grammar in GBNF, or in Lark's notation."""
        compile = self._compiler.gbnf if is_gbnf(key_string) else self._compiler.lark
        return self._made(lambda: compile(key_string))

    def dispatch_structural_tag(self, key_string: str) -> Any:
        return self._made(lambda: self._compiler.lark(structural_tag(key_string, compact=self._compact)))

    def _made(self, compile: Callable[[], Grammar]) -> Any:
        try:
            return ConstrainGrammar(Matcher(compile()))
        except ConstrainError as error:
            return InvalidGrammarObject(str(error))


def create(server_args: Any, tokenizer: Any, vocab_size: int, eos_token_ids: set[int] | None) -> Any:
    """What SGLang calls when it is started with `--grammar-backend sgl-constrain`.

    tokenizer: a fast tokenizer of transformers. eos_token_ids: None takes the tokenizer's. With a reasoning
    parser the grammar begins after the reasoning. Raises InvalidVocabulary, and ConstrainError for
    `--constrained-json-whitespace-pattern`.
    """
    serving = get_serving()
    if serving.constrained_json_whitespace_pattern:
        raise ConstrainError(
            "--constrained-json-whitespace-pattern is not supported: use "
            "--constrained-json-max-whitespace-cnt or --constrained-json-disable-any-whitespace"
        )
    tokens, ends = huggingface_tokens(tokenizer)
    vocabulary = Vocabulary(tokens, eos=eos_token_ids or ends, size=max(vocab_size, len(tokens)))
    most = serving.constrained_json_max_whitespace_cnt
    backend = ConstrainBackend(
        Compiler(vocabulary),
        compact=bool(serving.constrained_json_disable_any_whitespace),
        max_whitespace=20 if most is None else most,
    )
    if not serving.reasoning_parser:
        return backend
    parser = ReasoningParser(model_type=serving.reasoning_parser, stream_reasoning=False, tokenizer=tokenizer)
    return ReasonerGrammarBackend(
        backend, parser, tokenizer, enable_strict_thinking=serving.enable_strict_thinking
    )


def plug_in() -> None:
    """Make `sgl-constrain` a value of `--grammar-backend`.

    SGLang calls it in each of its processes when it is an entry point of the group `sglang.srt.plugins`.
    """
    add_grammar_backend_choices([NAME])
    register_grammar_backend(NAME, create)
