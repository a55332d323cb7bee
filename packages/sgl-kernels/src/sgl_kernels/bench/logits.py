# SPDX-License-Identifier: Apache-2.0
"""What is done to the logits of a step before sampling: penalties and masks of grammars."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sgl_kernels import apply_penalties, apply_token_bitmask
from sgl_kernels.bench.harness import Case, Prepared, relative_error

_VOCABULARY = 128256


def cases() -> Iterator[Case]:
    for rows in (1, 64, 256):

        def penalties(rows: int = rows) -> Prepared:
            """One token in a thousand was said, one in a hundred is in the prompt."""
            logits = torch.randn(rows, _VOCABULARY, device="cuda")
            counts = (torch.rand_like(logits) < 0.001).int()
            prompt = torch.rand_like(logits) < 0.01
            strengths = torch.rand(3, rows, device="cuda")
            named = dict(zip(("frequency", "presence", "repetition"), strengths, strict=True))

            def ours(logits: Tensor = logits) -> None:
                apply_penalties(logits, counts, prompt, **named)

            def check() -> float:
                frequency, presence, repetition = strengths.double()[:, :, None]
                exact = logits.double()
                seen = prompt | (counts > 0)
                repeated = torch.where(exact > 0, exact / repetition, exact * repetition)
                penalised = repeated - counts * frequency - (counts > 0) * presence
                changed = logits.clone()
                ours(changed)
                return relative_error(changed, torch.where(seen, penalised, exact))

            return Prepared(ours, {}, check)

        moved = 5 * rows * _VOCABULARY
        goal = 0.85 if moved >= 8 << 20 else None
        yield Case(
            "apply_penalties", f"{rows} x {_VOCABULARY}", penalties, bytes=moved, limit=1e-6, goal=goal
        )

        for share in (0.01, 0.5):

            def mask(rows: int = rows, share: float = share) -> Prepared:
                logits = torch.randn(rows, _VOCABULARY, device="cuda")
                allowed = torch.rand_like(logits) < share
                bits = 1 << torch.arange(32, device="cuda")
                words = (allowed.view(rows, -1, 32) * bits).sum(-1).to(torch.int32)

                def check() -> float:
                    changed = logits.clone()
                    apply_token_bitmask(changed, words)
                    forbidden = changed.isneginf()
                    wrong = (forbidden == allowed).sum().item()
                    return wrong or relative_error(changed[allowed], logits[allowed])

                return Prepared(lambda: apply_token_bitmask(logits, words), {}, check)

            moved = 4 * rows * _VOCABULARY + rows * _VOCABULARY // 8
            size = f"{rows} x {_VOCABULARY}, {share:.0%} allowed"
            goal = 0.85 if moved >= 8 << 20 else None
            yield Case("apply_token_bitmask", size, mask, bytes=moved, limit=0.0, goal=goal)
