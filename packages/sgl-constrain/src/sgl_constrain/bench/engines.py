# SPDX-License-Identifier: Apache-2.0
"""The engines compared, each behind the same three verbs: compile, fill a bitmask, accept a token.

An engine is used as its documentation says one should for a single request on one thread: the tokenizer's
tables made once and shared by all grammars, a bitmask that is written in place. What an engine sees of the
vocabulary is the token bytes and the ids that end a text; no tokenizer of its own.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sgl_constrain.bench.cases import Kind
from sgl_constrain.bench.tokenizers import Tokenizer
from sgl_constrain.compiler import Compiler
from sgl_constrain.engine import ENGINE, native
from sgl_constrain.errors import ConstrainError
from sgl_constrain.matcher import Matcher
from sgl_constrain.vocabulary import Vocabulary

Bitmask = NDArray[np.int32]  # [1, words]


class Refused(Exception):
    """The engine does not take this grammar; the message is the engine's."""


class Session(NamedTuple):
    """One text being generated. fill: write the mask of what may come next; accept: go on with a token, False
    where the engine will not.
    """

    fill: Callable[[], object]
    accept: Callable[[int], object]


class Grammar(Protocol):
    """A compiled grammar; `session` starts a text."""

    @abstractmethod
    def session(self) -> Session: ...


class Engine(Protocol):
    """One vocabulary, one bitmask that every session writes to."""

    bitmask: Bitmask

    @abstractmethod
    def compile(self, kind: Kind, source: str) -> Grammar:
        """Raises Refused."""


class Sgl:
    """This library, in Python and numpy. Decides for its whole process which walk is used."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        ENGINE.module = None
        self._make(tokenizer)

    def _make(self, tokenizer: Tokenizer) -> None:
        vocabulary = Vocabulary(tokenizer.tokens, eos=tokenizer.eos)
        self.bitmask = _bitmask(tokenizer)
        self._compiler = Compiler(vocabulary)

    def compile(self, kind: Kind, source: str) -> Grammar:
        compile = self._compiler.regex if kind == "regex" else self._compiler.json_schema
        try:
            grammar = compile(source)
        except ConstrainError as error:
            raise Refused(str(error)) from error
        bitmask = self.bitmask

        def session() -> Session:
            matcher = Matcher(grammar)
            return Session(lambda: matcher.fill_bitmask(bitmask, 0), matcher.accept_token)

        return _Made(session)


class SglNative(Sgl):
    """This library, walking in C."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._make(tokenizer)


class LLGuidance:
    """llguidance: a grammar is a matcher; `reset` keeps what its lexer has built."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._library = importlib.import_module("llguidance")
        self._fill = importlib.import_module("llguidance.numpy").fill_next_token_bitmask
        self.bitmask = _bitmask(tokenizer)
        self._tokenizer = self._library.LLTokenizer(self._library.TokenizerWrapper(_Bytes(tokenizer)))

    def compile(self, kind: Kind, source: str) -> Grammar:
        matchers = self._library.LLMatcher
        read = matchers.grammar_from_regex if kind == "regex" else matchers.grammar_from_json_schema
        try:
            matcher = matchers(self._tokenizer, read(source), log_level=0)
        except ValueError as error:
            raise Refused(str(error)) from error
        if matcher.is_error():
            raise Refused(matcher.get_error())
        fill, bitmask = self._fill, self.bitmask

        def session() -> Session:
            matcher.reset()
            return Session(lambda: fill(matcher, bitmask, 0), matcher.consume_token)

        return _Made(session)


class _Bytes:
    """The tokenizer as llguidance asks for one."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.eos_token_id = tokenizer.eos[0]
        special = [i for i, token in enumerate(tokenizer.tokens) if not token]
        self.special_token_ids = special
        # Special tokens have names there, which the trie keeps apart from text by a byte that no text has.
        self.tokens = [token or b"\xff<special_%d>" % i for i, token in enumerate(tokenizer.tokens)]
        self._encode = tokenizer.encode

    def __call__(self, text: bytes) -> list[int]:
        return self._encode(text)


class XGrammar:
    """xgrammar: as the specification of JSON Schema reads, keys that are not named are allowed."""

    strict = False

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._library = importlib.import_module("xgrammar")
        info = self._library.TokenizerInfo(
            list(tokenizer.tokens),
            self._library.VocabType.RAW,
            vocab_size=len(tokenizer.tokens),
            stop_token_ids=list(tokenizer.eos),
        )
        self.bitmask = _bitmask(tokenizer)
        self._compiler = self._library.GrammarCompiler(info, max_threads=1)

    def compile(self, kind: Kind, source: str) -> Grammar:
        try:
            if kind == "regex":
                compiled = self._compiler.compile_regex(source)
            else:
                compiled = self._compiler.compile_json_schema(source, strict_mode=self.strict)
        except (RuntimeError, ValueError) as error:
            raise Refused(str(error)) from error
        bitmask, matchers = self.bitmask, self._library.GrammarMatcher

        def session() -> Session:
            matcher = matchers(compiled)
            return Session(lambda: matcher.fill_next_token_bitmask(bitmask, 0), matcher.accept_token)

        return _Made(session)


class XGrammarStrict(XGrammar):
    """xgrammar as it comes: keys that are not named are forbidden."""

    strict = True


class OutlinesCore:
    """outlines-core: a schema becomes a pattern, a pattern an index from states to tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._library = importlib.import_module("outlines_core")
        self._schemas = importlib.import_module("outlines_core.json_schema")
        ids: dict[bytes, list[int]] = {}
        for i, token in enumerate(tokenizer.tokens):
            if token:
                ids.setdefault(token, []).append(i)
        self._vocabulary = self._library.Vocabulary(tokenizer.eos[0], ids)
        self.bitmask = _bitmask(tokenizer)

    def compile(self, kind: Kind, source: str) -> Grammar:
        try:
            pattern = source if kind == "regex" else self._schemas.build_regex_from_schema(source)
            index = self._library.Index(pattern, self._vocabulary)
        except (ValueError, TypeError, RuntimeError) as error:
            raise Refused(str(error)) from error
        guides, bitmask = self._library.Guide, self.bitmask
        address, words, size = bitmask.ctypes.data, bitmask.size, bitmask.itemsize

        def session() -> Session:
            guide = guides(index)

            def accept(token: int) -> bool:
                try:
                    guide.advance(token, return_tokens=False)
                except (ValueError, RuntimeError):
                    return False
                return True

            return Session(lambda: guide.write_mask_into(address, words, size), accept)

        return _Made(session)


class _Made(NamedTuple):
    session: Callable[[], Session]


def _bitmask(tokenizer: Tokenizer) -> Bitmask:
    return np.full((1, (len(tokenizer.tokens) + 31) // 32), -1, dtype=np.int32)


class _Kind(NamedTuple):
    make: Callable[[Tokenizer], Engine]
    package: str


ENGINES = {
    "sgl": _Kind(Sgl, "sgl-constrain"),
    "sgl-native": _Kind(SglNative, "sgl-constrain"),
    "llguidance": _Kind(LLGuidance, "llguidance"),
    "xgrammar": _Kind(XGrammar, "xgrammar"),
    "xgrammar-strict": _Kind(XGrammarStrict, "xgrammar"),
    "outlines-core": _Kind(OutlinesCore, "outlines-core"),
}


def installed(name: str) -> str | None:
    """The version of the package behind an engine; None when it is not installed, or this library's walk in C
    not built.
    """
    if name == "sgl-native" and not native():
        return None
    try:
        return version(ENGINES[name].package)
    except PackageNotFoundError:
        return None


def make(name: str, tokenizer: Tokenizer) -> Any:
    return ENGINES[name].make(tokenizer)
