# SPDX-License-Identifier: Apache-2.0
"""`Stop` against a search through the whole text after every token."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from sgl_runtime.messages import Finish, Sampling, StoppedByLength, StoppedByString, StoppedByToken
from sgl_runtime.scheduler.bias import Bias
from sgl_runtime.scheduler.request import Request
from sgl_runtime.scheduler.stop import Stop

VOCABULARY = [b"", b"a", b"b", b"ab", b"ba", b"aab", b"\xe4\xb8", b"\xad"]
EOS = frozenset({0})


def finishes(sampling: Sampling, tokens: list[int], limit: int = 1000) -> list[Finish | None]:
    stop = Stop(sampling, limit=limit, eos=EOS, vocabulary=VOCABULARY)
    return [stop.check(token, number) for number, token in enumerate(tokens, start=1)]


@settings(derandomize=True, database=None, max_examples=400)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=12),
    st.lists(
        st.sampled_from([b"a", b"ab", b"abab", b"bb", b"baa", "中".encode(), b"\xad"]), min_size=1, max_size=3
    ),
)
def test_a_string_is_found_with_the_token_that_completes_it(tokens: list[int], strings: list[bytes]) -> None:
    found = finishes(Sampling(stop=tuple(strings)), tokens)
    text = b""
    for token, finish in zip(tokens, found, strict=True):
        text += VOCABULARY[token]
        places = [(text.find(string), index) for index, string in enumerate(strings) if string in text]
        if places:
            assert finish == StoppedByString(strings[min(places)[1]])
            break
        assert finish is None


def test_tokens_come_before_strings_and_strings_before_length() -> None:
    both = Sampling(stop=(b"ab",), stop_token_ids=(3,))
    assert finishes(both, [1, 3]) == [None, StoppedByToken(3)]
    assert finishes(Sampling(stop=(b"ab",)), [1, 2], limit=2) == [None, StoppedByString(b"ab")]
    assert finishes(Sampling(), [1, 2], limit=2) == [None, StoppedByLength(2)]


def test_eos_ends_unless_it_is_ignored_and_stop_tokens_always_end() -> None:
    assert finishes(Sampling(), [1, 0]) == [None, StoppedByToken(0)]
    ignoring = Sampling(ignore_eos=True, stop_token_ids=(2,))
    assert finishes(ignoring, [0, 2]) == [None, StoppedByToken(2)]


def test_only_a_request_that_nothing_can_end_is_known_to_reach_its_limit() -> None:
    def certain(sampling: Sampling) -> bool:
        return Stop(sampling, limit=5, eos=EOS, vocabulary=VOCABULARY).by_length_alone

    assert certain(Sampling(ignore_eos=True))
    assert not certain(Sampling())
    assert not certain(Sampling(ignore_eos=True, stop=(b"a",)))
    assert not certain(Sampling(ignore_eos=True, stop_token_ids=(1,)))


def test_what_a_request_certainly_generates() -> None:
    def certain(sampling: Sampling) -> int:
        stop = Stop(sampling, limit=sampling.max_new_tokens, eos=EOS, vocabulary=VOCABULARY)
        bias, prompt = Bias(sampling, stop.tokens), np.array([1], np.int32)
        return Request("r", prompt, sampling, stop, bias, -1, None, 0, 0, 0.0, 0.0).certain

    assert certain(Sampling(max_new_tokens=9, ignore_eos=True)) == 9
    assert certain(Sampling(max_new_tokens=9, min_new_tokens=4)) == 4
    assert certain(Sampling(max_new_tokens=3, min_new_tokens=4)) == 3
    assert certain(Sampling(max_new_tokens=9, min_new_tokens=4, stop=(b"a",))) == 0


def test_a_token_beyond_the_vocabulary_has_no_text() -> None:
    assert finishes(Sampling(stop=(b"ab",)), [1, 100, 2]) == [None, None, StoppedByString(b"ab")]
