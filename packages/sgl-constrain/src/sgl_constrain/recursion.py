# SPDX-License-Identifier: Apache-2.0
"""Left recursion: a rule that can come back to itself before it has read anything.

The automaton, which reads from the left, would never stop expanding it, so such grammars are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sgl_constrain.expression import (
    Choice,
    Empty,
    Expressions,
    Reference,
    Repeat,
    Sequence,
    Words,
)


def left_recursion(expressions: Expressions, rules: Iterable[int]) -> list[int]:
    """A cycle of references that comes back to its first without reading anything, or an empty list.

    References that are not among `rules` (those of a schema inside a grammar) are taken to read something and
    to lead nowhere: they stand for values, which are not empty and refer to no rule of the grammar.
    """
    order = list(rules)
    nullable = _nullable_rules(expressions, order)
    edges = {rule: _leftmost(expressions, rule, nullable) for rule in order}
    done: set[int] = set()
    for start in order:
        path: dict[int, Iterator[int]] = {} if start in done else {start: iter(edges[start])}
        while path:
            rule, pending = next(reversed(path.items()))
            following = next(pending, None)
            if following is None:
                done.add(rule)
                del path[rule]
            elif following in path:
                cycle = list(path)
                return [*cycle[cycle.index(following) :], following]
            elif following in edges and following not in done:
                path[following] = iter(edges[following])
    return []


def _nullable_rules(expressions: Expressions, rules: list[int]) -> set[int]:
    """The rules that may read nothing. A rule is looked at again when one that it mentions turns out to."""
    users: dict[int, list[int]] = {}
    for rule in rules:
        for mentioned in _mentioned(expressions, expressions.body_of(rule)):
            users.setdefault(mentioned, []).append(rule)
    nullable: set[int] = set()
    pending = list(rules)
    while pending:
        rule = pending.pop()
        if rule not in nullable and _is_nullable(expressions, expressions.body_of(rule), nullable):
            nullable.add(rule)
            pending += users.get(rule, ())
    return nullable


def _mentioned(expressions: Expressions, root: int) -> set[int]:
    """The references inside an expression, not looking into what they refer to."""
    found: set[int] = set()
    seen = {root}
    pending = [root]
    while pending:
        expression = pending.pop()
        match expressions.nodes[expression]:
            case Reference():
                found.add(expression)
                continue
            case Sequence(parts) | Choice(parts):
                children: tuple[int, ...] = parts
            case Repeat(body, _, _):
                children = (body,)
            case Words(table, low, high, _):
                children = expressions.tables[table].follow[low:high]
            case _:
                continue
        pending += (child for child in children if child not in seen)
        seen.update(children)
    return found


def _is_nullable(expressions: Expressions, expression: int, rules: set[int]) -> bool:
    match expressions.nodes[expression]:
        case Empty():
            return True
        case Reference():
            return expression in rules
        case Sequence(parts):
            return all(_is_nullable(expressions, part, rules) for part in parts)
        case Choice(options):
            return any(_is_nullable(expressions, option, rules) for option in options)
        case Repeat(body, least, _):
            return least == 0 or _is_nullable(expressions, body, rules)
        case Words(table, low, _, depth):
            words, follow = expressions.tables[table]
            return len(words[low]) == depth and _is_nullable(expressions, follow[low], rules)
        case _:
            return expressions.is_nullable(expression)


def _leftmost(expressions: Expressions, rule: int, nullable: set[int]) -> list[int]:
    """The rules that may be entered from `rule` before anything is read."""
    found: dict[int, None] = {}
    seen: set[int] = set()
    pending = [expressions.body_of(rule)]
    while pending:
        expression = pending.pop()
        if expression in seen:
            continue
        seen.add(expression)
        match expressions.nodes[expression]:
            case Reference():
                found[expression] = None
            case Sequence(parts):
                for part in parts:
                    pending.append(part)
                    if not _is_nullable(expressions, part, nullable):
                        break
            case Choice(options):
                pending += options
            case Repeat(body, _, _):
                pending.append(body)
            case Words(table, low, _, depth):
                words, follow = expressions.tables[table]
                if len(words[low]) == depth:
                    pending.append(follow[low])
            case _:
                pass
    return list(found)
