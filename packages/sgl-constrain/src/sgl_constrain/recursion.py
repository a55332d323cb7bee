# SPDX-License-Identifier: Apache-2.0
"""Left recursion: a rule that can come back to itself before it has read anything.

The automaton, which reads from the left, would never stop expanding it, so such grammars are refused.
"""

from __future__ import annotations

from collections.abc import Iterable

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
    """A cycle of references that comes back to its first without reading anything, or an empty list."""
    order = list(rules)
    nullable = _nullable_rules(expressions, order)
    edges = {rule: _leftmost(expressions, rule, nullable) for rule in order}
    done: set[int] = set()
    for start in order:
        pending = [(start, iter(edges[start]))] if start not in done else []
        path = [start] if pending else []
        while pending:
            for following in pending[-1][1]:
                if following in path:
                    return [*path[path.index(following) :], following]
                if following not in done:
                    path.append(following)
                    pending.append((following, iter(edges[following])))
                    break
            else:
                done.add(path.pop())
                pending.pop()
    return []


def _nullable_rules(expressions: Expressions, rules: list[int]) -> set[int]:
    nullable: set[int] = set()
    while True:
        found = {
            r
            for r in rules
            if r not in nullable and _is_nullable(expressions, expressions.body_of(r), nullable)
        }
        if not found:
            return nullable
        nullable |= found


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
