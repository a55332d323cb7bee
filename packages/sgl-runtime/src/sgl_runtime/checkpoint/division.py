# SPDX-License-Identifier: Apache-2.0
"""How the sizes of a model are divided among the ranks of a replica: arithmetic, without a tensor.

Sizes need not divide evenly: spans are balanced, and attention heads are divided by whole KV groups.
"""

from __future__ import annotations

from dataclasses import dataclass

from sgl_runtime.errors import ConfigError


@dataclass(frozen=True)
class Span:
    """The indices start … stop-1 of one dimension."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    def times(self, unit: int) -> Span:
        """The same span counted in things of which `unit` make one."""
        return Span(self.start * unit, self.stop * unit)


def share(total: int, rank: int, size: int) -> Span:
    """The rank-th of `size` consecutive spans that cover `total`: balanced to one, the longer ones first.

    Raises ConfigError if some rank would be left with nothing.
    """
    if total < size:
        raise ConfigError(
            f"--tp {size} is too large: a layer of width {total} cannot be divided by it", param="tp"
        )
    least, longer = divmod(total, size)
    start = rank * least + min(rank, longer)
    return Span(start, start + least + (rank < longer))


@dataclass(frozen=True)
class HeadShare:
    """The query heads of one rank and the key/value heads that they attend to."""

    q: Span
    kv: Span


def head_sizes(heads: int, kv_heads: int) -> list[int]:
    """The tensor-parallel sizes that `share_heads` accepts, ascending."""
    group = heads // kv_heads
    return [*range(1, kv_heads + 1), *(kv_heads * n for n in range(2, group + 1) if group % n == 0)]


def share_heads(heads: int, kv_heads: int, rank: int, size: int) -> HeadShare:
    """Divide attention heads so that every rank has whole KV groups, or whole fractions of one group.

    Up to `kv_heads` ranks: KV heads are divided, unevenly if need be, each with all its query heads.
    Beyond: every KV head is held by several ranks, which divide its query heads evenly. Raises ConfigError,
    naming the sizes that work, if they cannot.
    """
    assert heads % kv_heads == 0, "every KV head serves the same number of query heads"
    group = heads // kv_heads
    if size <= kv_heads:
        kv = share(kv_heads, rank, size)
        return HeadShare(kv.times(group), kv)
    sizes = head_sizes(heads, kv_heads)
    if size not in sizes:
        raise ConfigError(
            f"--tp {size} does not divide {heads} query heads over {kv_heads} KV heads; "
            f"sizes that do: {', '.join(map(str, sizes))}",
            param="tp",
        )
    copies = size // kv_heads
    kv_head = rank // copies
    return HeadShare(Span(rank, rank + 1).times(group // copies), Span(kv_head, kv_head + 1))
