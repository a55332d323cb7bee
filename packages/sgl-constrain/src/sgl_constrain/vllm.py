# SPDX-License-Identifier: Apache-2.0
"""vLLM's structured outputs on grammars of this library: `ConstrainBackend` and `ConstrainGrammar`.

Written against the interface of vLLM 0.33, which has no register of backends: `plug_in` puts this one where
xgrammar stands. vLLM and torch are not dependencies of this distribution; importing this module needs both.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from vllm import exceptions  # type: ignore[import-not-found]
from vllm.v1 import structured_output  # type: ignore[import-not-found]
from vllm.v1.structured_output import backend_xgrammar  # type: ignore[import-not-found]
from vllm.v1.structured_output.backend_types import (  # type: ignore[import-not-found]
    StructuredOutputBackend,
    StructuredOutputGrammar,
    StructuredOutputOptions,
)
from vllm.v1.structured_output.request import get_structured_output_key  # type: ignore[import-not-found]

from sgl_constrain.compiler import Compiler
from sgl_constrain.errors import ConstrainError
from sgl_constrain.gbnf import is_gbnf
from sgl_constrain.grammar import Grammar
from sgl_constrain.sources import huggingface_tokens
from sgl_constrain.states import DEAD, DONE
from sgl_constrain.structural import structural_tag
from sgl_constrain.vocabulary import Vocabulary

Options = StructuredOutputOptions


class ConstrainGrammar(StructuredOutputGrammar):  # type: ignore[misc]
    """One request. Not thread-safe, but any number of them may be used at once, each by one thread.

    stops: the tokens that end the text, instead of the vocabulary's: allowed where the text may end and
    nowhere else, also when they are text.
    """

    def __init__(self, grammar: Grammar, stops: Iterable[int] = ()) -> None:
        size, known = grammar.vocabulary.size, frozenset(grammar.vocabulary.eos)
        self.grammar = grammar
        self._stops = frozenset(stop for stop in stops if 0 <= stop < size) or known
        # Tokens whose bit in the grammar's masks is not what this request means by them.
        self._differing = tuple(sorted(self._stops ^ known))
        self._states = [grammar.start]

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        """Go on with the tokens. False at the first that is not allowed; those before it are kept.

        Tokens after the one that ends the text are not looked at.
        """
        for token in tokens:
            if self.is_terminated():
                break
            state = self._step(self._states[-1], token)
            if state == DEAD:
                return False
            self._states.append(state)
        return True

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        """The longest prefix that could be accepted; it ends with the text, and before padding (-1)."""
        state = self._states[-1]
        for count, token in enumerate(tokens):
            if state == DONE or token < 0:
                return tokens[:count]
            state = self._step(state, token)
            if state == DEAD:
                return tokens[:count]
        return tokens

    def rollback(self, num_tokens: int) -> None:
        """Take back the last accepted tokens. Raises ValueError when there are fewer."""
        if not 0 <= num_tokens < len(self._states):
            raise ValueError(f"num_tokens: cannot take back {num_tokens} of {len(self._states) - 1} tokens")
        del self._states[len(self._states) - num_tokens :]

    def fill_bitmask(self, bitmask: Any, batch_index: int) -> None:
        """bitmask [n, words] int32 on the CPU: row `batch_index` becomes the mask of the next token."""
        state = self._states[-1]
        rows = np.asarray(bitmask)
        self.grammar.write_mask(state, rows, batch_index)
        if self._differing:
            row = rows[batch_index]
            may_end = self.grammar.accepts(state)
            words = row.view(np.uint32)
            for token in self._differing:
                bit = np.uint32(1 << (token & 31))
                if may_end and token in self._stops:
                    words[token >> 5] |= bit
                else:
                    words[token >> 5] &= ~bit

    def is_terminated(self) -> bool:
        """Has a token that ends the text been accepted?"""
        return self._states[-1] == DONE

    def reset(self) -> None:
        """Back to the beginning."""
        del self._states[1:]

    def _step(self, state: int, token: int) -> int:
        if token in self._stops:
            return DONE if self.grammar.accepts(state) else DEAD
        if token in self._differing or not 0 <= token < self.grammar.vocabulary.size:
            return DEAD
        return self.grammar.step(state, token)


class ConstrainBackend(StructuredOutputBackend):  # type: ignore[misc]
    """One for an engine. `compile_grammar` may be called by several threads at once.

    tokenizer: a fast tokenizer of transformers. vocab_size: the width of the logits; the masks are as wide,
    or as wide as the tokenizer where that has more tokens. Raises InvalidVocabulary for other tokenizers.
    """

    def __init__(self, vllm_config: Any, tokenizer: Any, vocab_size: int) -> None:
        super().__init__(vllm_config, tokenizer, vocab_size)
        options = vllm_config.structured_outputs_config
        if options.disable_additional_properties:
            raise ConstrainError(
                "structured_outputs_config.disable_additional_properties is not supported: write "
                "`additionalProperties: false` into the schemas"
            )
        self._compact = bool(options.disable_any_whitespace)
        tokens, ends = huggingface_tokens(tokenizer)
        vocabulary = Vocabulary(tokens, eos=ends, size=max(vocab_size, len(tokens)))
        self._compiler = Compiler(vocabulary)

    def compile_grammar(
        self, request_type: Any, grammar_spec: str, stop_token_ids: set[int] | None = None
    ) -> ConstrainGrammar:
        """The grammar of a request. Raises ConstrainError, a ValueError, for what is refused."""
        grammar = _compile(self._compiler, request_type, grammar_spec, compact=self._compact)
        return ConstrainGrammar(grammar, stop_token_ids or ())

    def allocate_token_bitmask(self, max_num_seqs: int) -> Any:
        """[max_num_seqs, words] int32 on the CPU, everything allowed."""
        torch = importlib.import_module("torch")
        return torch.full((max_num_seqs, self._compiler.vocabulary.words), -1, dtype=torch.int32)

    def destroy(self) -> None:
        self._compiler.close()


def _compile(compiler: Compiler, kind: Any, source: str, *, compact: bool) -> Grammar:
    match kind:
        case Options.JSON:
            return compiler.json_schema(source, compact=compact)
        case Options.JSON_OBJECT:
            return compiler.json_object(compact=compact)
        case Options.REGEX:
            return compiler.regex(source)
        case Options.CHOICE:
            return compiler.choice(_options(source))
        case Options.GRAMMAR:
            return compiler.gbnf(source) if is_gbnf(source) else compiler.lark(source)
        case Options.STRUCTURAL_TAG:
            return compiler.lark(structural_tag(source, compact=compact))
        case _:
            raise ConstrainError(f"structured outputs of the kind {kind} are not supported")


def _options(source: str) -> list[str]:
    try:
        options = json.loads(source)
    except ValueError as error:
        raise ConstrainError(f"choice: a JSON list of strings, not {source[:80]!r}") from error
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise ConstrainError(f"choice: a JSON list of strings, not {source[:80]!r}")
    return options


def validate(sampling_params: Any) -> None:
    """What the front end of vLLM asks before it queues a request. Raises VLLMValidationError to refuse it.

    The tokenizer is not known there, so the grammar is compiled for a vocabulary of single bytes.
    """
    if sampling_params.structured_outputs is None:
        return
    kind, source = get_structured_output_key(sampling_params.structured_outputs)
    try:
        _compile(_bytes_compiler(), kind, source, compact=False)
    except ConstrainError as error:
        raise exceptions.VLLMValidationError(str(error), parameter="structured_outputs") from error


@cache
def _bytes_compiler() -> Compiler:
    return Compiler(Vocabulary([bytes([byte]) for byte in range(256)], eos=()), cache_bytes=8 << 20)


def plug_in() -> None:
    """From now on, where this process of vLLM would use xgrammar it uses this.

    vLLM calls it in each of its processes when it is an entry point of the group `vllm.general_plugins`.
    """
    structured_output.XgrammarBackend = ConstrainBackend
    backend_xgrammar.validate_xgrammar_grammar = validate
