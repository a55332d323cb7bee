# SPDX-License-Identifier: Apache-2.0
"""`Compiler`: from source text to grammars of one vocabulary. Thread-safe; remembers what it compiled, by
bytes.

Compiling is cheap (states and masks are made later, when needed), so the cache mostly keeps masks alive. Two
threads that ask for the same grammar compile it once.
"""

from __future__ import annotations

import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from sgl_constrain.automaton import Automaton
from sgl_constrain.errors import (
    ConstrainError,
    GrammarTooLarge,
    InvalidGrammar,
    InvalidPattern,
    InvalidSchema,
)
from sgl_constrain.expression import EMPTY, Expressions
from sgl_constrain.gbnf import gbnf
from sgl_constrain.grammar import Grammar
from sgl_constrain.lark import lark
from sgl_constrain.limits import DEFAULT_LIMITS, Limits
from sgl_constrain.regex import regex
from sgl_constrain.schema.basics import Basics
from sgl_constrain.schema.compiling import json_schema, parse_schema, settled_basics
from sgl_constrain.slices import Slices
from sgl_constrain.states import DEAD
from sgl_constrain.vocabulary import Vocabulary

_SURROGATE = re.compile("[\ud800-\udfff]")
_WHITESPACE = 20
_MOST_BASICS = 16  # kept by one compiler
_MOST_HEADS = 800  # classes of characters, and parts of them, that one table keeps; 377 are always there
_MEASURED_EVERY = 8  # the cache is measured when one in so many of its grammars is new


class Compiler:
    """cache_bytes: grammars used least recently are forgotten when all together hold more than this."""

    def __init__(
        self, vocabulary: Vocabulary, *, cache_bytes: int = 256 << 20, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self.vocabulary = vocabulary
        self.limits = limits
        self._shared = _Shared(vocabulary.slices)
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()
        self._grammars: OrderedDict[Hashable, Future[Grammar]] = OrderedDict()
        self._made: dict[
            Hashable, tuple[Grammar, int]
        ] = {}  # of the futures that are done; and bytes of keys
        self._unmeasured = 0  # grammars compiled since the cache was last measured
        self._executor: ThreadPoolExecutor | None = None

    def regex(self, pattern: str, *, flags: int = 0) -> Grammar:
        """The texts that `re.fullmatch(pattern, text, flags)` matches. Raises InvalidPattern,
        GrammarTooLarge.
        """
        return self._cached(("regex", pattern, int(flags)), lambda: self._regex(pattern, flags))

    def choice(self, options: Collection[str]) -> Grammar:
        """Exactly one of the strings. Raises InvalidPattern when there is none or one is no text (a lone
        surrogate), TypeError when one is no string, GrammarTooLarge.
        """
        if isinstance(options, str) or not all(isinstance(option, str) for option in options):
            raise TypeError("options: must be a collection of strings")
        texts = tuple(sorted(set(options)))
        if broken := [text for text in texts if _SURROGATE.search(text)]:
            raise InvalidPattern("an option holds a lone surrogate, which no text does", pattern=broken[0])
        return self._cached(("choice", texts), lambda: self._choice(texts))

    def json_schema(
        self,
        schema: object,
        *,
        key_order: Literal["schema", "any"] = "schema",
        max_whitespace: int = _WHITESPACE,
        compact: bool = False,
        lenient: bool = False,
        resources: Mapping[str, object] | None = None,
    ) -> Grammar:
        """The JSON texts of the values that a JSON Schema allows: draft 2020-12, and older spellings.

        schema: a mapping, a boolean, JSON text, or a pydantic model, msgspec Struct or dataclass.
        key_order: "schema", properties in their order and other keys after them, or "any".
        max_whitespace: how many blanks may stand around each `,` `:` and bracket; `compact` is 0. lenient:
        what cannot be enforced exactly is left out, which forbids nothing, and listed in `Grammar.warnings`,
        instead of refused.
        resources: other documents that references may point to, by URI; nothing is ever fetched.
        Properties come in the order of the schema, other keys after them; integers are written without
        fraction. Raises InvalidSchema, UnsupportedSchema, GrammarTooLarge.
        """
        if key_order not in ("schema", "any"):
            raise ConstrainError(f"key_order must be 'schema' or 'any', not {key_order!r}")
        if type(max_whitespace) is not int or max_whitespace < 0:
            raise ConstrainError(f"max_whitespace must be a whole number from 0 on, not {max_whitespace!r}")
        most_chars = self.limits.source_chars
        parsed, text = parse_schema(schema, most_chars=most_chars)
        others = {
            uri: parse_schema(other, most_chars=most_chars)
            for uri, other in sorted(resources.items() if resources else ())
        }
        spaces = 0 if compact else max_whitespace
        texts = tuple((uri, text) for uri, (_, text) in others.items())
        documents = {uri: document for uri, (document, _) in others.items()}
        return self._cached(
            ("json_schema", text, key_order, spaces, lenient, texts),
            lambda: self._json_schema(parsed, key_order == "any", spaces, lenient, documents),
        )

    def json_object(self, *, max_whitespace: int = _WHITESPACE, compact: bool = False) -> Grammar:
        """Any JSON object."""
        return self.json_schema({"type": "object"}, max_whitespace=max_whitespace, compact=compact)

    def gbnf(self, source: str) -> Grammar:
        """The texts of the rule `root` of a grammar in llama.cpp's notation.

        Raises InvalidGrammar, GrammarTooLarge.
        """
        return self._cached(("gbnf", source), lambda: self._gbnf(source))

    def lark(self, source: str) -> Grammar:
        """The texts of the rule `start` of a grammar in Lark's notation.

        Raises InvalidGrammar, GrammarTooLarge, and InvalidSchema for a schema inside the grammar.
        """
        return self._cached(("lark", source), lambda: self._lark(source))

    def compile_async(self, kind: str, *args: Any, **options: Any) -> Future[Grammar]:
        """`compile_async("regex", pattern)` is `regex(pattern)` on a thread of this compiler, as a future."""
        kinds: dict[str, Callable[..., Grammar]] = {
            "regex": self.regex,
            "choice": self.choice,
            "json_schema": self.json_schema,
            "json_object": self.json_object,
            "gbnf": self.gbnf,
            "lark": self.lark,
        }
        if kind not in kinds:
            raise ConstrainError(f"there is no grammar of kind {kind!r}")
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sgl-constrain")
            return self._executor.submit(kinds[kind], *args, **options)

    def close(self) -> None:
        """End the thread of `compile_async`, after what it was asked for."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()

    @property
    def nbytes(self) -> int:
        """About how much memory the remembered grammars hold now."""
        with self._lock:
            return self._held()

    def _held(self) -> int:
        return sum([grammar.nbytes + size for grammar, size in self._made.values()])

    def _cached(self, key: Hashable, compile: Callable[[], Grammar]) -> Grammar:
        with self._lock:
            new = key not in self._grammars
            if new:
                self._grammars[key] = Future()
            self._grammars.move_to_end(key)
            future = self._grammars[key]
        try:
            if new:
                future.set_result(compile())
            grammar = future.result()
        except BaseException as error:
            if new:
                with self._lock:
                    del self._grammars[key]
                future.set_exception(error)
            raise
        finally:
            del future  # an error holds the frames that it went through, which must not hold the error
        if new:
            self._remember(key, grammar)
        return grammar

    def _remember(self, key: Hashable, grammar: Grammar) -> None:
        with self._lock:
            if key in self._grammars:  # and not forgotten meanwhile
                self._made[key] = grammar, _size(key)
            self._unmeasured += 1
            if self._unmeasured * _MEASURED_EVERY > len(self._grammars):
                self._unmeasured = 0
                while len(self._grammars) > 1 and self._held() > self._cache_bytes:
                    forgotten, _ = self._grammars.popitem(last=False)
                    self._made.pop(forgotten, None)

    def _shared_now(self) -> _Shared:
        with self._lock:
            if len(self._shared.slices.heads.edges) > _MOST_HEADS:
                self._shared = _Shared(Slices(self.vocabulary.trie, self.vocabulary.size))
            return self._shared

    def _grammar(
        self,
        shared: _Shared,
        expressions: Expressions,
        root: int,
        empty: Callable[[], ConstrainError],
        warnings: tuple[str, ...] = (),
    ) -> Grammar:
        automaton = Automaton(expressions, root)
        if automaton.start == DEAD:
            raise empty()
        return Grammar(automaton, self.vocabulary, shared.slices, warnings=warnings)

    def _regex(self, pattern: str, flags: int) -> Grammar:
        shared = self._shared_now()
        with _making(Expressions(shared.slices.heads, self.limits)) as expressions:
            root = regex(expressions, pattern, flags=flags)
            empty = partial(InvalidPattern, "no text matches", pattern=pattern)
            return self._grammar(shared, expressions, root, empty)

    def _choice(self, texts: tuple[str, ...]) -> Grammar:
        length = sum(map(len, texts))
        if length > self.limits.source_chars:
            raise GrammarTooLarge(f"the options have {length} characters", limit="source_chars")
        shared = self._shared_now()
        with _making(Expressions(shared.slices.heads, self.limits)) as expressions:
            root = expressions.words({text.encode(): EMPTY for text in texts})
            return self._grammar(shared, expressions, root, partial(InvalidPattern, "no options", pattern=""))

    def _gbnf(self, source: str) -> Grammar:
        shared = self._shared_now()
        with _making(Expressions(shared.slices.heads, self.limits)) as expressions:
            root = gbnf(expressions, source)
            return self._grammar(
                shared, expressions, root, partial(InvalidGrammar, "no text matches", line=1)
            )

    def _lark(self, source: str) -> Grammar:
        shared = self._shared_now()
        with _making(Expressions(shared.slices.heads, self.limits)) as expressions:
            root = lark(expressions, source)
            return self._grammar(
                shared, expressions, root, partial(InvalidGrammar, "no text matches", line=1)
            )

    def _json_schema(
        self,
        schema: object,
        any_order: bool,
        max_whitespace: int,
        lenient: bool,
        resources: Mapping[str, object],
    ) -> Grammar:
        shared = self._shared_now()
        basics = shared.basics(max_whitespace).copy(self.limits)
        with _making(basics.expressions) as expressions:
            root, warnings = json_schema(
                expressions,
                schema,
                max_whitespace=max_whitespace,
                any_order=any_order,
                lenient=lenient,
                resources=resources,
                basics=basics,
            )
            empty = partial(InvalidSchema, "no value satisfies the schema", path="")
            return self._grammar(shared, expressions, root, empty, warnings)


class _Shared:
    """What grammars have in common: classes of characters with their slices, and the basics of schemas over
    these classes. Tables only grow, so a compiler makes itself new ones when patterns have brought too many
    classes; grammars made before keep theirs.
    """

    def __init__(self, slices: Slices) -> None:
        self.slices = slices
        self._basics = {_WHITESPACE: settled_basics(slices.heads, _WHITESPACE)}  # by the blanks allowed

    def basics(self, max_whitespace: int) -> Basics:
        known = self._basics.get(max_whitespace)
        if known is None:
            known = settled_basics(self.slices.heads, max_whitespace, self._basics[_WHITESPACE])
            if len(self._basics) < _MOST_BASICS:
                self._basics[max_whitespace] = known
        return known


def _size(key: Hashable) -> int:
    """Bytes of a key, in which the source stands."""
    return sys.getsizeof(key) + (sum(map(_size, key)) if isinstance(key, tuple) else 0)


@contextmanager
def _making(expressions: Expressions) -> Iterator[Expressions]:
    """A grammar is made out of them, which closes them when it goes; they are closed if none is."""
    try:
        yield expressions
    except BaseException:
        expressions.close()
        raise
