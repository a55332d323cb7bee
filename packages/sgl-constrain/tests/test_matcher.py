# SPDX-License-Identifier: Apache-2.0
"""The shell around a grammar: batches of masks, going back, forking, and jumping forward in the
model's own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sgl_constrain import (
    Compiler,
    Jump,
    Matcher,
    Vocabulary,
    allocate_bitmask,
    apply_bitmask,
    fill_bitmask_batch,
)

TOKENS = [b"a", b"b", b"ab", b"", b" ", b"bc", b"c", b'"', b'":', b":", b'": ', b"name", b"{", b'{"', b'", "']
EOS = 3


@pytest.fixture
def letters() -> Compiler:
    return Compiler(Vocabulary(TOKENS, eos=[EOS]))


def longest(data: bytes) -> list[int]:
    """A tokenizer that always takes the longest token."""
    tokens: list[int] = []
    while data:
        token = max(
            (i for i, t in enumerate(TOKENS) if t and data.startswith(t)), key=lambda i: len(TOKENS[i])
        )
        tokens.append(token)
        data = data[len(TOKENS[token]) :]
    return tokens


def test_tokens_are_accepted_or_nothing_changes(letters: Compiler) -> None:
    matcher = Matcher(letters.regex("ab+c"))
    assert matcher.allowed_token_ids().tolist() == [0, 2]
    assert not matcher.accept_token(1)
    assert matcher.accept_tokens([2, 1, 0, 5]) == 2, "the third is not allowed"
    assert matcher.validate_tokens([5, EOS]) == 2 and matcher.allowed_token_ids().tolist() == [1, 5, 6]
    assert matcher.accept_bytes(b"bc") and matcher.is_complete() and not matcher.is_terminated()
    assert not matcher.accept_bytes(b"c")
    assert matcher.accept_token(EOS) and matcher.is_terminated() and matcher.is_complete()
    assert matcher.allowed_token_ids().tolist() == [EOS]


def test_going_back_and_forking(letters: Compiler) -> None:
    matcher = Matcher(letters.regex("[abc]*"))
    states = [matcher.state]
    for token in (0, 1, 2, 5):
        matcher.accept_token(token)
        states.append(matcher.state)
    twin = matcher.fork()
    matcher.rollback(3)
    assert matcher.state == states[1] and twin.state == states[4]
    twin.rollback(0)
    with pytest.raises(ValueError, match="2 of 1"):
        matcher.rollback(2)
    matcher.reset()
    assert matcher.state == states[0] and twin.accept_token(EOS)


def test_masks_of_a_batch(letters: Compiler) -> None:
    matchers = [Matcher(letters.regex("a*")), None, Matcher(letters.regex("b"))]
    mask = allocate_bitmask(4, len(TOKENS))
    assert mask.shape == (4, 1) and (mask == -1).all()
    fill_bitmask_batch(matchers, mask)
    assert mask[:, 0].tolist() == [1 | 1 << EOS, -1, 2, -1]
    fill_bitmask_batch(matchers[:1], mask, rows=[3])
    assert mask[3, 0] == mask[0, 0]
    matchers[2].fill_bitmask(mask, row=1)  # type: ignore[union-attr]
    assert mask[1, 0] == 2
    assert matchers[0].mask_id() == 0  # type: ignore[union-attr]
    logits = np.zeros((4, len(TOKENS)), dtype=np.float32)
    apply_bitmask(logits, mask)
    assert np.flatnonzero(logits[2] == 0).tolist() == [1] and np.isneginf(logits[2]).sum() == len(TOKENS) - 1


def test_a_torch_tensor_is_filled_in_place(letters: Compiler) -> None:
    torch = pytest.importorskip("torch")
    mask = torch.full((2, 1), -1, dtype=torch.int32)
    Matcher(letters.regex("b")).fill_bitmask(mask, row=1)
    assert mask.tolist() == [[-1], [2]]


def test_rows_need_not_lie_in_one_piece(letters: Compiler) -> None:
    matcher = Matcher(letters.regex("b"))
    apart, wide = np.zeros((1, 4), dtype=np.int32), np.zeros((1, 1), dtype=np.int64)
    matcher.fill_bitmask(apart[:, ::4])
    matcher.fill_bitmask(wide)
    assert apart.tolist() == [[2, 0, 0, 0]] and wide.tolist() == [[2]]


@pytest.mark.parametrize(
    ("pattern", "written", "tail", "jump"),
    [
        ('{"name": "[a-c]*"', [], [], Jump(0, (13, 11, 10, 7))),
        ('{"name": "[a-c]*"', [12], [12], Jump(1, (13, 11, 10, 7))),  # `{` and `"` become one token
        ('{"name": "[a-c]*"', [12], [], Jump(0, (7, 11, 10, 7))),
        ("ab?c", [], [], Jump(0, ())),  # `a` may become `ab`
        ("a[ :]c", [], [], Jump(0, (0,))),  # here it may not
        ("abbc", [], [], Jump(0, (2, 5))),
        ("[ab]c?", [], [], Jump(0, ())),  # nothing is forced
    ],
)
def test_forced_text_becomes_the_tokens_the_tokenizer_would_write(
    letters: Compiler, pattern: str, written: Sequence[int], tail: Sequence[int], jump: Jump
) -> None:
    matcher = Matcher(letters.regex(pattern))
    assert matcher.accept_tokens(written) == len(written)
    found = matcher.jump_forward_tokens(longest, tail)
    assert found == jump
    matcher.rollback(found.drop)
    assert matcher.accept_tokens(found.tokens) == len(found.tokens)


def test_a_jump_needs_its_tail_to_have_been_accepted(letters: Compiler) -> None:
    matcher = Matcher(letters.regex("abc"))
    assert matcher.jump_forward_tokens(longest, tail=[0]) == Jump(0, ())


def test_a_tokenizer_that_changes_the_text_is_not_followed(letters: Compiler) -> None:
    matcher = Matcher(letters.regex("abc"))
    assert matcher.jump_forward_tokens(lambda data: longest(b" " + data)) == Jump(0, ())
