# SPDX-License-Identifier: Apache-2.0
"""`Tails`: how tokens go on after one byte, wherever that byte comes after characters of a class: `, "` and
`name, "` end alike. A state after the byte is the same for all of them, so it is walked over this trie, in
which they are one, instead of from each node.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sgl_constrain.trie import Ints, Level, Nodes


class Tails(NamedTuple):
    """trie: of the tails, each node a token of its own number. tokens, nodes: [n] those of the vocabulary
    that have a tail, and its node; alone: those without. least, most: characters before the byte.
    """

    trie: Nodes
    tokens: Ints
    nodes: Ints
    alone: Ints
    least: int
    most: int


def tails(trie: Nodes, nodes: Ints, least: int, most: int) -> Tails:
    """nodes: to which the byte leads."""
    alone = trie.token_at[nodes]
    none = np.empty(0, dtype=np.int32)
    levels: list[Level] = []
    tokens, ends = [none], [none]
    number = np.zeros(nodes.size, dtype=np.int64)  # of each node's tail, on its level
    start = 0
    while True:
        counts = trie.child_count[nodes]
        below = np.repeat(trie.first_child[nodes] - (np.cumsum(counts) - counts), counts)
        below += np.arange(below.size)
        if not below.size:
            break
        key = number.repeat(counts) << 8 | trie.byte[below]
        order = key.argsort(kind="stable")
        fresh = np.ones(key.size, dtype=np.bool_)
        fresh[1:] = np.diff(key[order]) != 0
        number = np.empty(key.size, dtype=np.int64)
        number[order] = fresh.cumsum() - 1
        distinct = key[order][fresh]
        here = np.arange(distinct.size, dtype=np.int32)
        parent, byte = (distinct >> 8).astype(np.int32), (distinct & 255).astype(np.int32)
        levels.append(Level(start, start + distinct.size, byte, parent, here, here + np.int32(start)))
        ended = trie.token_at[below] >= 0
        tokens.append(trie.token_at[below[ended]])
        ends.append((number[ended] + start).astype(np.int32))
        nodes = below
        start += distinct.size
    made = Nodes(levels, none, none)
    return Tails(made, np.concatenate(tokens), np.concatenate(ends), alone[alone >= 0], least, most)
