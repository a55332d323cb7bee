# SPDX-License-Identifier: Apache-2.0
"""Hash-consed expressions: what every front end builds and the automaton reads.

An expression is a number; the same expression is built once and keeps its number, so comparing languages that
were built alike is comparing integers. The constructors simplify where that is free (`fail` disappears,
alternatives that begin with text become one sorted table of words), never approximate. Repetitions keep their
counts; nothing is unrolled. Knows nothing of states, tokens or where an expression came from.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar, cast, get_args

from sgl_constrain.codepoints import ANY, Ranges
from sgl_constrain.errors import GrammarTooLarge
from sgl_constrain.limits import Limits
from sgl_constrain.utf8 import NO_HEAD, Heads

FAIL = 0  # no string at all
EMPTY = 1  # the empty string
FAR = 1 << 60  # a length that is not known, or has no end
_BYTES_PER_EXPRESSION, _BYTES_PER_WORD = 200, 150  # roughly
_ITS_NUMBER = "its number"  # the state of a deferred expression that is one of many
ENDLESS = -1  # `most` of a repetition without an upper bound


class Fail(NamedTuple):
    pass


class Empty(NamedTuple):
    pass


class Character(NamedTuple):
    """One character: a head of `Heads`."""

    head: int


class Words(NamedTuple):
    """The rest, from `depth` on, of one of the words low..high of a table, and then that word's
    continuation.
    """

    table: int
    low: int
    high: int
    depth: int


class Sequence(NamedTuple):
    parts: tuple[int, ...]


class Choice(NamedTuple):
    options: tuple[int, ...]


class Repeat(NamedTuple):
    """`body` at least `least` and at most `most` times; `most` may be ENDLESS."""

    body: int
    least: int
    most: int


class Reference(NamedTuple):
    """A rule, which may be defined after it was referred to, and may refer to itself."""

    rule: int


class Deferred(NamedTuple):
    """An expression that is made when it is first needed, out of `state`."""

    source: int
    state: Hashable


class Both(NamedTuple):
    """Strings of `left` that are also strings of `right`."""

    left: int
    right: int


class Without(NamedTuple):
    """Strings of `left` that are not strings of `right`."""

    left: int
    right: int


Node = Fail | Empty | Character | Words | Sequence | Choice | Repeat | Reference | Deferred | Both | Without


class WordTable(NamedTuple):
    """Words in order, and what follows each."""

    words: tuple[bytes, ...]
    follow: tuple[int, ...]


class Listed(NamedTuple):
    """Members in their order, each a text, `colon` and a value; `comma` stands before all but the first.
    Those that are required are there, others may be. Where none is required any more `close` ends the list,
    `alone` that of no members; and before that any number of others may come, if there are such.

    first: the number of the first of reserved expressions. They stand for another member; the rest after one;
    and for each of the members the rest from its text on, from its colon on, and after its value.
    """

    first: int
    colon: int
    comma: int
    close: int
    alone: int
    others: bool
    members: Iterable[tuple[bytes, int, bool]]  # text, value, is it required?


Tell = Callable[[Hashable], Listed | None]


class _Source(NamedTuple):
    make: Callable[[Hashable], int]
    witness: Callable[[Hashable], int]
    tell: Tell | None


T = TypeVar("T")


_made = tuple.__new__  # of a class of nodes and its fields: without a call in Python


def shallow(thing: T) -> T:
    """As `copy.copy`, which takes several times as long."""
    made = object.__new__(type(thing))
    made.__dict__.update(thing.__dict__)
    return made


class Expressions:
    """All expressions of one grammar. Raises GrammarTooLarge when there are more than
    `limits.expressions`.
    """

    def __init__(self, heads: Heads, limits: Limits) -> None:
        self.heads = heads
        self.limits = limits
        self._most = limits.expressions
        self.nodes: list[Node] = []
        self.tables: list[WordTable] = []
        # By kind, because equal tuples of two kinds are equal; and so a plain tuple finds a node.
        self._interned: dict[type, dict[tuple[Any, ...], int]] = {kind: {} for kind in get_args(Node)}
        self._find_tables()
        self._literals: dict[str | bytes, int] = {}
        self._table_numbers: dict[WordTable, int] = {}
        self._word_bytes = 0
        self._nullable: list[bool] = []
        self._shortest: dict[int, int] = {}
        self._rules: list[int | None] = []
        self._sources: list[_Source] = []
        self._readers: list[Callable[[], None]] = []
        self.settled = 0  # below this number each expression is known to match something, or is FAIL
        self.dead: set[int] = set()  # references to rules that match nothing, once pruning has found them
        self._deferred: dict[int, int] = {}
        assert self._intern(Fail(), False) == FAIL
        assert self._intern(Empty(), True) == EMPTY
        self.any_character = self.character(ANY)
        self.any_string = self.repeat(self.any_character, 0, ENDLESS)

    def copy(self, limits: Limits) -> Expressions:
        """A table of its own with the same expressions and numbers, to which `limits` apply anew. Not for
        tables with deferred expressions. All that is there must be settled.
        """
        assert not self._sources and self.settled == len(self.nodes)
        other = shallow(self)
        other.limits, other._most = limits, self.settled + limits.expressions
        other.nodes, other._nullable = self.nodes.copy(), self._nullable.copy()
        other.tables, other._table_numbers = self.tables.copy(), self._table_numbers.copy()
        other._interned = {kind: known.copy() for kind, known in self._interned.items()}
        other._find_tables()
        other._literals, other._shortest = self._literals.copy(), self._shortest.copy()
        other._rules = self._rules.copy()
        other._sources, other._deferred, other.dead = [], {}, set()
        other._readers = []
        return other

    def _find_tables(self) -> None:
        interned = self._interned
        self._sequences, self._choices = interned[Sequence], interned[Choice]
        self._repeats, self._words = interned[Repeat], interned[Words]

    @property
    def nbytes(self) -> int:
        """About how much memory they hold, with those that are copied from others."""
        return len(self.nodes) * _BYTES_PER_EXPRESSION + self._word_bytes

    def read_until(self, close: Callable[[], None]) -> None:
        """Something reads these expressions, and refers to itself, until `close` is called."""
        self._readers.append(close)

    def close(self) -> None:
        """They are not read any more. Automata refer to themselves, and what makes deferred expressions
        refers back to the table: without this all of it would wait for a collection of Python's, which is
        rare in a large process.
        """
        for close in self._readers:
            close()
        self._readers.clear()
        self._sources.clear()

    # -- leaves ----------------------------------------------------------------------------------------------

    def character(self, ranges: Ranges) -> int:
        """One character of `ranges`. Surrogates cannot be written in UTF-8: only they make this FAIL."""
        head = self.heads.of_characters(ranges)
        return FAIL if head == NO_HEAD else self.of_head(head)

    def of_head(self, head: int) -> int:
        """One character as a head of `heads`."""
        return self._intern(Character(head), False)

    def literal(self, text: str | bytes) -> int:
        known = self._literals.get(text)
        if known is None:
            data = text.encode() if isinstance(text, str) else text
            known = self._literals[text] = self.words({data: EMPTY})
        return known

    def words(self, follow: Mapping[bytes, int]) -> int:
        """One of the words, then the expression that belongs to it."""
        kept = {word: after for word, after in follow.items() if after != FAIL}
        if not kept:
            return FAIL
        words = tuple(sorted(kept))
        if not words[-1]:  # the only word is the empty one
            return kept[b""]
        table = _made(WordTable, (words, tuple(map(kept.__getitem__, words))))
        number = self._table_numbers.get(table)
        if number is None:
            self.tables.append(table)
            self._word_bytes += sum(map(len, words)) + len(words) * _BYTES_PER_WORD
            number = self._table_numbers[table] = len(self.tables) - 1
        return self.rest_of_words(number, 0, len(words), 0)

    def rest_of_words(self, table: int, low: int, high: int, depth: int) -> int:
        """The words low..high of a table, which are alike in their first `depth` bytes, from there on."""
        known = self._words.get((table, low, high, depth))
        if known is not None:
            return known
        words, follow = self.tables[table]
        ends = len(words[low]) == depth and self._nullable[follow[low]]
        return self._intern(Words(table, low, high, depth), ends)

    # -- combinations ----------------------------------------------------------------------------------------

    def sequence(self, *parts: int) -> int:
        nodes = self.nodes
        flat: list[int] = []
        for part in parts:
            if part == FAIL:
                return FAIL
            node = nodes[part]
            if type(node) is Sequence:
                flat += node.parts
            elif part != EMPTY:
                flat.append(part)
        if len(flat) < 2:
            return flat[0] if flat else EMPTY
        key = (tuple(flat),)
        known = self._sequences.get(key)
        if known is not None:
            return known
        node = _made(Sequence, key)
        number = self._sequences[node] = self._add(node, all(map(self._nullable.__getitem__, flat)))
        return number

    def choice(self, options: Iterable[int]) -> int:
        """Alternatives that begin with text are gathered into one table, so a common beginning is
        read once.
        """
        nodes = self.nodes
        pending = list(options)[::-1]
        if len(pending) == 1:
            return pending[0]
        rest: dict[int, None] = {}
        texts: dict[int, None] = {}
        while pending:
            option = pending.pop()
            node = nodes[option]
            kind = type(node)
            if kind is Choice:
                pending += cast(Choice, node).options[::-1]
            elif kind is Words or kind is Sequence:
                first = nodes[cast(Sequence, node).parts[0]] if kind is Sequence else node
                (texts if type(first) is Words and not first.depth else rest)[option] = None
            elif option != FAIL:
                rest[option] = None
        if len(texts) > 1:
            words: dict[bytes, dict[int, None]] = {}
            for option in texts:
                for word, follow in self._words_at_start(option):
                    words.setdefault(word, {})[follow] = None
            rest[self.words({word: self.choice(follow) for word, follow in words.items()})] = None
        else:
            rest.update(texts)
        if len(rest) <= 1:
            return next(iter(rest), FAIL)
        if EMPTY in rest and all(map(self._nullable.__getitem__, rest)):
            del rest[EMPTY]
            return self.choice(rest)
        key = (tuple(sorted(rest)),)
        known = self._choices.get(key)
        if known is not None:
            return known
        node = _made(Choice, key)
        number = self._choices[node] = self._add(node, any(map(self._nullable.__getitem__, rest)))
        return number

    def _words_at_start(self, option: int) -> list[tuple[bytes, int]]:
        """The words with which an alternative begins, each with what follows it."""
        node = self.nodes[option]
        parts: tuple[int, ...] = ()
        if type(node) is Sequence:
            parts = node.parts[1:]
            node = self.nodes[node.parts[0]]
        assert type(node) is Words and not node.depth
        pairs = zip(*self.tables[node.table], strict=True)
        return [(word, self.sequence(follow, *parts)) for word, follow in pairs]

    def optional(self, body: int) -> int:
        return self.repeat(body, 0, 1)

    def repeat(self, body: int, least: int, most: int = ENDLESS) -> int:
        """`body{least,most}`. Requires 0 <= least and (least <= most or most == ENDLESS)."""
        assert least >= 0 and (most == ENDLESS or least <= most)
        if most == 0 or body == EMPTY:
            return EMPTY
        if body == FAIL:
            return EMPTY if least == 0 else FAIL
        if least == most == 1:
            return body
        if self.is_nullable(body):
            least = 0
        inner = self.nodes[body]
        if isinstance(inner, Repeat):
            if inner.most == ENDLESS and inner.least <= 1:  # (x+){m,n} is x{m,}
                return self.repeat(inner.body, least, ENDLESS)
            if inner.least == 0:  # (x{0,a}){0,b} is x{0,ab}
                return self.repeat(inner.body, 0, ENDLESS if most == ENDLESS else inner.most * most)
        return self._intern(Repeat(body, least, most), least == 0)

    def once_less(self, expression: int) -> int:
        """What is left to read of a repetition after one time."""
        body, least, most = cast(Repeat, self.nodes[expression])
        if most == ENDLESS:
            return self.repeat(body, least - 1) if least else expression
        known = self._repeats.get((body, max(least - 1, 0), most - 1))
        return self.repeat(body, max(least - 1, 0), most - 1) if known is None else known

    def both(self, left: int, right: int) -> int:
        if left == FAIL or right == FAIL:
            return FAIL
        if left == right or right == self.any_string:
            return left
        if left == self.any_string:
            return right
        return self._intern(Both(left, right), self._nullable[left] and self._nullable[right])

    def without(self, left: int, right: int) -> int:
        if right == FAIL or left == FAIL:
            return left
        if left == right or right == self.any_string:
            return FAIL
        return self._intern(Without(left, right), self._nullable[left] and not self._nullable[right])

    # -- rules and deferred expressions ----------------------------------------------------------------------

    def rule(self) -> int:
        """A new rule; `define` says later what it stands for."""
        self._rules.append(None)
        return self._add(Reference(len(self._rules) - 1), False)

    def define(self, reference: int, body: int) -> None:
        node = self.nodes[reference]
        assert isinstance(node, Reference) and self._rules[node.rule] is None, "a rule is defined once"
        self._rules[node.rule] = body

    def redefine(self, node: Reference, body: int) -> None:
        """Replace a rule's body by an equal one, before anything is read with it."""
        self._rules[node.rule] = body

    def body(self, node: Reference) -> int:
        body = self._rules[node.rule]
        assert body is not None, "a rule was referred to and never defined"
        return body

    def body_of(self, reference: int) -> int:
        node = self.nodes[reference]
        assert isinstance(node, Reference)
        return self.body(node)

    def source(
        self,
        make: Callable[[Hashable], int],
        *,
        witness: Callable[[Hashable], int],
        tell: Tell | None = None,
    ) -> Callable[[Hashable], int]:
        """A family of expressions, each made by `make(state)` when it is first needed; pure functions of the
        state.

        `witness(state)` is an expression that matches something exactly when the one to be made does. By the
        time of `make`, `dead` is known: what it makes must be without dead rules and without empty products.
        tell: what it makes, if that is a list, for those who need no expressions for its points.
        """
        self._sources.append(_Source(make, witness, tell))
        number = len(self._sources) - 1
        known = self._interned[Deferred]

        def of_state(state: Hashable) -> int:
            key = (number, state)
            expression = known.get(key)
            if expression is None:
                node = _made(Deferred, key)
                expression = known[node] = self._add(node, False)
            return expression

        return of_state

    def witness(self, node: Deferred) -> int:
        return self._sources[node.source].witness(node.state)

    def reserve(self, make: Callable[[int], int], count: int) -> int:
        """The first of some expressions, each made by `make` of its place among them when it is first
        needed; for what is read after pruning.
        """
        first = len(self.nodes)
        if first + count > self._most:
            raise GrammarTooLarge(f"more than {self.limits.expressions} expressions", limit="expressions")
        self._sources.append(_Source(lambda number: make(cast(int, number) - first), lambda _: EMPTY, None))
        self.nodes += [Deferred(len(self._sources) - 1, _ITS_NUMBER)] * count
        self._nullable += [False] * count
        return first

    def listed(self, expression: int) -> Listed | None:
        """What a deferred expression stands for, if that is told as a list."""
        source, state = cast(Deferred, self.nodes[expression])
        tell = self._sources[source].tell
        return None if tell is None else tell(state)

    def made(self, expression: int) -> int:
        """What a deferred expression stands for."""
        made = self._deferred.get(expression)
        if made is None:
            node = self.nodes[expression]
            assert isinstance(node, Deferred)
            state = expression if node.state is _ITS_NUMBER else node.state
            made = self._deferred[expression] = self._sources[node.source].make(state)
        return made

    # -- properties ------------------------------------------------------------------------------------------

    def is_nullable(self, expression: int) -> bool:
        """Does it match the empty string? Rules and deferred expressions count as not matching it."""
        return self._nullable[expression]

    def shortest(self, expression: int) -> int:
        """How many bytes the shortest string has; FAR where a product, a rule or a deferred expression hides
        it.
        """
        known = self._shortest
        pending = [expression]
        while pending:
            current = pending[-1]
            if current in known:
                pending.pop()
                continue
            parts = _parts(self, self.nodes[current])
            missing = [part for part in parts if part not in known]
            if missing:
                pending += missing
            else:
                known[current] = self._shortest_of(self.nodes[current])
        return known[expression]

    def _shortest_of(self, node: Node) -> int:
        known = self._shortest
        match node:
            case Empty():
                return 0
            case Character(head):
                return self.heads.shortest(head)
            case Sequence(parts):
                return min(FAR, sum(known[part] for part in parts))
            case Choice(options):
                return min(known[option] for option in options)
            case Repeat(body, least, _):
                return min(FAR, known[body] * least)
            case Words(table, low, high, depth):
                words, follow = self.tables[table]
                return min(FAR, *(len(words[i]) - depth + known[follow[i]] for i in range(low, high)))
            case _:
                return FAR

    def nonempty(self, expression: int) -> int:
        """The same strings except the empty one. Not for expressions with rules that may be empty."""
        if not self.is_nullable(expression):
            return expression
        match self.nodes[expression]:
            case Sequence(parts):  # every part may be empty: the i-th is the first that is not
                if len(parts) ** 2 > self.limits.expressions:
                    raise GrammarTooLarge(f"{len(parts)} optional parts in a row", limit="expressions")
                return self.choice(
                    self.sequence(self.nonempty(part), *parts[i + 1 :]) for i, part in enumerate(parts)
                )
            case Choice(options):
                return self.choice(self.nonempty(option) for option in options)
            case Repeat(body, _, most):
                fewer = most if most == ENDLESS else most - 1
                return self.sequence(self.nonempty(body), self.repeat(body, 0, fewer))
            case Words(table, low, high, depth):
                words, follow = self.tables[table]
                assert depth == 0
                kept = dict(zip(words[low:high], follow[low:high], strict=True))
                empty = self.nonempty(kept.pop(b""))
                return self.choice([empty, self.words(kept)])
            case Both(left, right):
                return self.both(self.nonempty(left), right)
            case Without(left, right):
                return self.without(self.nonempty(left), right)
            case _:
                return FAIL

    def _intern(self, node: Node, nullable: bool) -> int:
        interned = self._interned[type(node)]
        number = interned.get(node)
        if number is None:
            number = interned[node] = self._add(node, nullable)
        return number

    def _add(self, node: Node, nullable: bool) -> int:
        number = len(self.nodes)
        if number >= self._most:
            raise GrammarTooLarge(f"more than {self.limits.expressions} expressions", limit="expressions")
        self.nodes.append(node)
        self._nullable.append(nullable)
        return number


def _parts(expressions: Expressions, node: Node) -> tuple[int, ...]:
    """What the length of the shortest string of `node` depends on."""
    match node:
        case Sequence(parts):
            return parts
        case Choice(options):
            return options
        case Repeat(body, _, _):
            return (body,)
        case Words(table, low, high, _):
            return expressions.tables[table].follow[low:high]
        case _:
            return ()
