# SPDX-License-Identifier: Apache-2.0
"""Removes what no string matches, so that every state of the automaton can be completed: no dead ends.

Constructors drop FAIL as they build, but two things are only known afterwards: whether a product (`Both`,
`Without`) is empty, and whether a recursive rule ever ends. A deferred expression has a witness to ask
instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from sgl_constrain.expression import (
    FAIL,
    Both,
    Choice,
    Deferred,
    Expressions,
    Node,
    Reference,
    Repeat,
    Sequence,
    Without,
    Words,
)

IsEmpty = Callable[[Both | Without], bool]


def prune(expressions: Expressions, root: int, is_empty: IsEmpty) -> int:
    """The same language, made of parts that each match something; FAIL when there is no string at all.

    `is_empty` decides products. The parts of a product are pruned first and contain no rules. Expressions
    below `expressions.settled` are known to be pruned, and are not looked into.
    """
    order = _bottom_up(expressions, root)
    nodes = expressions.nodes
    products = [cast(Both | Without, nodes[e]) for e in order if type(nodes[e]) in _PRODUCTS]
    if any(map(is_empty, products)):
        root = _rewrite(expressions, order, {}, is_empty).get(root, root)
        order = _bottom_up(expressions, root)
    named = [e for e in order if type(nodes[e]) in _NAMED]
    if named:
        lost = _lost(expressions, order)
        if root in lost:
            return FAIL
        endless = {e: FAIL for e in named if e in lost}
        if endless:
            expressions.dead.update(endless)
            root = _rewrite(expressions, order, endless, None).get(root, root)
    return root


_PRODUCTS = frozenset((Both, Without))
_NAMED = frozenset((Reference, Deferred))


def _children(expressions: Expressions, expression: int) -> tuple[int, ...]:
    node = expressions.nodes[expression]
    kind = type(node)  # asked in the order of how often it is what
    if kind is Sequence:
        return cast(Sequence, node).parts
    if kind is Words:
        table, low, high, _ = cast(Words, node)
        return expressions.tables[table].follow[low:high]
    if kind is Choice:
        return cast(Choice, node).options
    match node:
        case Reference():
            return (expressions.body(node),)
        case Repeat(body, _, _):
            return (body,)
        case Both(left, right) | Without(left, right):
            return (left, right)
        case Deferred():
            return (expressions.witness(node),)
        case _:
            return ()


def _bottom_up(expressions: Expressions, root: int) -> list[int]:
    """Every expression reachable from `root` that is not settled, children first except around a cycle of
    rules.
    """
    settled = expressions.settled
    order: list[int] = []
    seen = {root}
    path = [(root, iter(_children(expressions, root)))]
    while path:
        expression, children = path[-1]
        for child in children:
            if child >= settled and child not in seen:
                seen.add(child)
                below = _children(expressions, child)
                if below:
                    path.append((child, iter(below)))
                    break
                order.append(child)
        else:
            order.append(expression)
            path.pop()
    return order


def _lives(expressions: Expressions, expression: int, lost: set[int]) -> bool:
    """Does it match something, when those in `lost` do not?"""
    node = expressions.nodes[expression]
    kind = type(node)
    if kind is Sequence:
        return lost.isdisjoint(cast(Sequence, node).parts)
    if kind is Words:
        table, low, high, _ = cast(Words, node)
        return not lost.issuperset(expressions.tables[table].follow[low:high])
    if kind is Choice:
        return not lost.issuperset(cast(Choice, node).options)
    match node:
        case Reference():
            return expressions.body(node) not in lost
        case Repeat(body, least, _):
            return least == 0 or body not in lost
        case Deferred():
            return expressions.witness(node) not in lost
        case _:
            return expression != FAIL


def _lost(expressions: Expressions, order: list[int]) -> set[int]:
    """All but the least set of expressions that match something, given that whatever they are made of does.

    FAIL is settled, but lost.
    """
    lost = {FAIL, *order}
    left = order
    while True:
        still: list[int] = []
        for expression in left:
            if _lives(expressions, expression, lost):
                lost.discard(expression)
            else:
                still.append(expression)
        if len(still) == len(left):
            return lost
        left = still


def _rewrite(
    expressions: Expressions, order: list[int], replaced: dict[int, int], is_empty: IsEmpty | None
) -> dict[int, int]:
    """Rebuild bottom-up with `replaced` rules (and empty products) gone; rules keep their names, with new
    bodies. What is made of parts that stay as they are stays as it is.
    """
    new = replaced.copy()
    for expression in order:
        node = expressions.nodes[expression]
        if type(node) in _PRODUCTS:
            if is_empty is None:
                continue
            made = _product(expressions, cast(Both | Without, node), new, is_empty)
        elif type(node) in _NAMED or new.keys().isdisjoint(_children(expressions, expression)):
            continue
        else:
            made = _rebuilt(expressions, node, new)
        if made != expression:
            new[expression] = made
    for expression in order:
        node = expressions.nodes[expression]
        if type(node) is Reference and expression not in replaced:
            body = expressions.body(node)
            if body in new:
                expressions.redefine(node, new[body])
    return new


def _product(expressions: Expressions, node: Both | Without, new: dict[int, int], is_empty: IsEmpty) -> int:
    join = expressions.both if type(node) is Both else expressions.without
    joined = join(new.get(node.left, node.left), new.get(node.right, node.right))
    made = expressions.nodes[joined]
    return FAIL if isinstance(made, Both | Without) and is_empty(made) else joined


def _rebuilt(expressions: Expressions, node: Node, new: dict[int, int]) -> int:
    match node:
        case Sequence(parts):
            return expressions.sequence(*[new.get(part, part) for part in parts])
        case Choice(options):
            return expressions.choice([new.get(option, option) for option in options])
        case Repeat(body, least, most):
            return expressions.repeat(new[body], least, most)
        case Words(table, low, high, _):
            words, follow = expressions.tables[table]
            kept = zip(words[low:high], follow[low:high], strict=True)
            return expressions.words({word: new.get(after, after) for word, after in kept})
        case _:
            raise AssertionError("a leaf has no parts that could change")
