# SPDX-License-Identifier: Apache-2.0
"""Removes what no string matches, so that every state of the automaton can be completed: no dead ends.

Constructors drop FAIL as they build, but two things are only known afterwards: whether a product (`Both`,
`Without`) is empty, and whether a recursive rule ever ends. A deferred expression has a witness to ask
instead.
"""

from __future__ import annotations

from collections.abc import Callable

from sgl_constrain.expression import (
    FAIL,
    Both,
    Choice,
    Deferred,
    Expressions,
    Fail,
    Reference,
    Repeat,
    Sequence,
    Without,
    Words,
)

IsEmpty = Callable[[Both | Without], bool]


def prune(expressions: Expressions, root: int, is_empty: IsEmpty) -> int:
    """The same language, made of parts that each match something; FAIL when there is no string at all.

    `is_empty` decides products. The parts of a product are pruned first and contain no rules.
    """
    order = _bottom_up(expressions, root)
    nodes = [expressions.nodes[e] for e in order]
    if any(isinstance(node, Both | Without) for node in nodes):
        root = _rewrite(expressions, order, {}, is_empty)[root]
        order = _bottom_up(expressions, root)
    rules = [e for e in order if isinstance(expressions.nodes[e], Reference)]
    if rules:
        alive = _alive(expressions, order)
        if root not in alive:
            return FAIL
        endless = {
            e: FAIL
            for e in order
            if e not in alive and isinstance(expressions.nodes[e], Reference | Deferred)
        }
        if endless:
            expressions.dead.update(endless)
            root = _rewrite(expressions, order, endless, None)[root]
    return root


def _children(expressions: Expressions, expression: int) -> tuple[int, ...]:
    match expressions.nodes[expression]:
        case Sequence(parts):
            return parts
        case Choice(options):
            return options
        case Repeat(body, _, _):
            return (body,)
        case Words(table, low, high, _):
            return expressions.tables[table].follow[low:high]
        case Reference() as node:
            return (expressions.body(node),)
        case Both(left, right) | Without(left, right):
            return (left, right)
        case Deferred() as node:
            return (expressions.witness(node),)
        case _:
            return ()


def _bottom_up(expressions: Expressions, root: int) -> list[int]:
    """Every expression reachable from `root`, children first except around a cycle of rules."""
    order: list[int] = []
    seen = {root}
    path = [(root, iter(_children(expressions, root)))]
    while path:
        expression, children = path[-1]
        for child in children:
            if child not in seen:
                seen.add(child)
                path.append((child, iter(_children(expressions, child))))
                break
        else:
            order.append(expression)
            path.pop()
    return order


def _lives(expressions: Expressions, expression: int, alive: set[int]) -> bool:
    match expressions.nodes[expression]:
        case Sequence(parts):
            return all(part in alive for part in parts)
        case Choice(options):
            return any(option in alive for option in options)
        case Repeat(body, least, _):
            return least == 0 or body in alive
        case Words(table, low, high, _):
            return any(follow in alive for follow in expressions.tables[table].follow[low:high])
        case Reference() as node:
            return expressions.body(node) in alive
        case Deferred() as node:
            return expressions.witness(node) in alive
        case Fail():
            return False
        case _:
            return True


def _alive(expressions: Expressions, order: list[int]) -> set[int]:
    """The least set of expressions that match something, given that whatever they are made of does."""
    alive: set[int] = set()
    grew = True
    while grew:
        before = len(alive)
        for expression in order:
            if expression not in alive and _lives(expressions, expression, alive):
                alive.add(expression)
        grew = len(alive) > before
    return alive


def _rewrite(
    expressions: Expressions, order: list[int], replaced: dict[int, int], is_empty: IsEmpty | None
) -> dict[int, int]:
    """Rebuild bottom-up with `replaced` rules (and empty products) gone; rules keep their names, with new
    bodies.
    """
    new = {expression: expression for expression in order} | replaced
    for expression in order:
        match expressions.nodes[expression]:
            case Sequence(parts):
                new[expression] = expressions.sequence(*(new[part] for part in parts))
            case Choice(options):
                new[expression] = expressions.choice(new[option] for option in options)
            case Repeat(body, least, most):
                new[expression] = expressions.repeat(new[body], least, most)
            case Words(table, low, high, _):
                words, follow = expressions.tables[table]
                kept = zip(words[low:high], follow[low:high], strict=True)
                new[expression] = expressions.words({word: new[after] for word, after in kept})
            case Both(left, right) | Without(left, right) as product if is_empty is not None:
                join = expressions.both if isinstance(product, Both) else expressions.without
                joined = join(new[left], new[right])
                made = expressions.nodes[joined]
                new[expression] = FAIL if isinstance(made, Both | Without) and is_empty(made) else joined
            case _:
                pass
    for expression in order:
        node = expressions.nodes[expression]
        if isinstance(node, Reference) and expression not in replaced:
            expressions.redefine(node, new[expressions.body(node)])
    return new
