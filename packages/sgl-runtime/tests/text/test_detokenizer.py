# SPDX-License-Identifier: Apache-2.0
"""Any tokens, however divided, with any stop strings: the pieces joined are what reading everything
at once says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sgl_runtime.messages import Aborted, Finish, StoppedByLength, StoppedByString, StoppedByToken
from sgl_runtime.text.detokenizer import Detokenizer
from sgl_runtime.text.tokenizer import Tokenizer
from sgl_runtime.text.vocabulary import Vocabulary

# A few letters, so that stop strings occur and overlap; parts of characters; bytes of no character; nothing.
TOKENS = [
    *(b"a", b"b", b"ab", b"aab", b" ", b"ba b", b"\xe4", b"\xb8", b"\xad", b"\xe4\xb8", b"\xad\xe4"),
    *("中".encode(), "é🙂".encode(), b"\xf0\x9f", b"\x99\x82", b"\xff", b"\xc3", b"", b"<x>", b"<y>", b" a"),
]
SPECIAL = frozenset({TOKENS.index(b"<x>"), TOKENS.index(b"<y>")})
VOCABULARY = Vocabulary(TOKENS)
STOPS = st.text(st.sampled_from("ab中é🙂 <x>"), min_size=1, max_size=4).map(str.encode)


def at_once(
    vocabulary: Vocabulary,
    tokens: Sequence[int],
    finish: Finish,
    *,
    special: frozenset[int] = SPECIAL,
    stop: Sequence[bytes] = (),
    skip_special: bool = True,
    keep_stop: bool = False,
    **_: Any,
) -> str:
    """The definition: all bytes, cut at the stop string that ends first, special tokens left out, decoded."""
    if isinstance(finish, StoppedByToken) and not keep_stop:
        tokens = tokens[:-1]
    data, shown = b"", b""
    for token in tokens:
        data += vocabulary[token]
        shown += (b"0" if token in special and skip_special else b"1") * len(vocabulary[token])
    for end in range(1, len(data) + 1):
        matches = [text for text in stop if data[:end].endswith(text)]
        if matches:
            longest = max(map(len, matches))
            data, shown = (
                data[:end],
                shown[: end - longest] + (b"1" * longest if keep_stop else b"0" * longest),
            )
            break
    return bytes(byte for byte, show in zip(data, shown, strict=True) if show == ord("1")).decode(
        errors="replace"
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[int]], Finish, dict[str, Any]]:
    chunks = draw(st.lists(st.lists(st.integers(0, len(TOKENS) + 1), max_size=5), min_size=1, max_size=6))
    tokens = [token for chunk in chunks for token in chunk]
    options: dict[str, Any] = {
        "special": SPECIAL,
        "stop": draw(st.lists(STOPS, max_size=3)),
        "skip_special": draw(st.booleans()),
        "keep_stop": draw(st.booleans()),
        "stop_tokens": draw(st.frozensets(st.integers(0, len(TOKENS) - 1), max_size=2)),
    }
    ends: list[Finish] = [StoppedByLength(len(tokens)), Aborted("gone"), StoppedByString(b"a")]
    if tokens and (
        tokens[-1] in options["stop_tokens"] or (tokens[-1] in SPECIAL and options["skip_special"])
    ):
        ends = [StoppedByToken(tokens[-1])]
    return chunks, draw(st.sampled_from(ends)), options


@given(cases())
@example(([[0], [1]], StoppedByLength(2), {"special": SPECIAL, "stop": [b"ab"]}))
@example(([[6], [7, 8]], Aborted("gone"), {"special": SPECIAL, "stop": ["中".encode()], "keep_stop": True}))
@settings(max_examples=1000, deadline=None)
def test_pieces_joined_are_the_text_read_at_once(
    case: tuple[list[list[int]], Finish, dict[str, Any]],
) -> None:
    chunks, finish, options = case
    detokenizer = Detokenizer(VOCABULARY, **options)
    pieces = [detokenizer.push(chunk) for chunk in chunks]
    pieces.append(detokenizer.finish(finish))
    tokens = [token for chunk in chunks for token in chunk]
    assert "".join(pieces) == at_once(VOCABULARY, tokens, finish, **options)


@given(cases())
@settings(max_examples=500, deadline=None)
def test_what_is_pushed_is_certain(case: tuple[list[list[int]], Finish, dict[str, Any]]) -> None:
    """However the request goes on or ends, the text so far is a beginning of its text; and it is the
    longest such.
    """
    chunks, _, options = case
    detokenizer = Detokenizer(VOCABULARY, **options)
    text, tokens = "", []
    stop = [part.decode() for part in options["stop"]]
    for chunk in chunks:
        text += detokenizer.push(chunk)
        tokens += chunk
        for more in ([], [0], [2, 3], [11]):
            ahead = at_once(VOCABULARY, tokens + more, StoppedByLength(9), **options)
            assert ahead.startswith(text)
        if not options["keep_stop"] and not options["skip_special"] and "\ufffd" not in text:
            assert not any(part in text for part in stop)


def push_one_by_one(text: str, **options: Any) -> list[str]:
    vocabulary = Vocabulary([bytes([byte]) for byte in range(256)])
    detokenizer = Detokenizer(vocabulary, special=frozenset(), **options)
    return [*(detokenizer.push([byte]) for byte in text.encode()), detokenizer.finish(StoppedByLength(1))]


def test_text_comes_as_soon_as_it_is_certain() -> None:
    assert push_one_by_one("aé") == ["a", "", "é", ""]
    assert push_one_by_one("xabz", stop=[b"abc"]) == ["x", "", "", "abz", ""]
    assert push_one_by_one("xabcz", stop=[b"abc"]) == ["x", "", "", "", "", ""]
    assert push_one_by_one("xabcz", stop=[b"abc"], keep_stop=True) == ["x", "", "", "abc", "", ""]
    assert push_one_by_one("xab", stop=[b"abc"]) == ["x", "", "", "ab"]


def test_among_stop_strings_the_first_to_be_complete_counts() -> None:
    assert "".join(push_one_by_one("1234567", stop=[b"3456", b"45"])) == "123"
    assert "".join(push_one_by_one("1234567", stop=[b"45", b"345"])) == "12", (
        "of two that end together, the longer"
    )
    assert "".join(push_one_by_one("aaab", stop=[b"aab"])) == "a"
    assert "".join(push_one_by_one("天地玄黄", stop=["玄黄".encode(), "地".encode()])) == "天"


def text_of(tokens: list[int], finish: Finish, **options: Any) -> str:
    detokenizer = Detokenizer(VOCABULARY, special=SPECIAL, **options)
    return detokenizer.push(tokens) + detokenizer.finish(finish)


def test_special_tokens_are_skipped_or_shown() -> None:
    a, x = TOKENS.index(b"a"), TOKENS.index(b"<x>")
    assert text_of([a, x, a], StoppedByLength(3)) == "aa"
    assert text_of([a, x, a], StoppedByLength(3), skip_special=False) == "a<x>a"
    assert text_of([a, x], StoppedByToken(x)) == "a"
    assert text_of([a, x], StoppedByToken(x), skip_special=False, stop_tokens=[x]) == "a"
    assert text_of([a, x], StoppedByToken(x), skip_special=False, stop_tokens=[x], keep_stop=True) == "a<x>"
    assert text_of([a, x], StoppedByToken(x), stop_tokens=[x], keep_stop=True) == "a"


def test_a_special_token_that_is_not_shown_can_be_a_stop_string() -> None:
    a, x, b = TOKENS.index(b"a"), TOKENS.index(b"<x>"), TOKENS.index(b"b")
    assert text_of([a, x, b], StoppedByString(b"<x>"), stop=[b"<x>"]) == "a"
    assert text_of([a, x, b], StoppedByString(b"<x>"), stop=[b"<x>"], keep_stop=True) == "a<x>"
    assert text_of([a, x, b], StoppedByString(b"a<"), stop=[b"a<"]) == ""


def test_an_ordinary_stop_token_is_not_shown_unless_the_text_goes_on() -> None:
    a, b = TOKENS.index(b"a"), TOKENS.index(b"b")
    detokenizer = Detokenizer(VOCABULARY, special=SPECIAL, stop_tokens=[b])
    assert [detokenizer.push([a]), detokenizer.push([b]), detokenizer.push([a])] == ["a", "", "ba"]
    assert detokenizer.push([b]) == ""
    assert detokenizer.finish(StoppedByToken(b)) == ""
    assert text_of([a, b], StoppedByToken(b), stop_tokens=[b], keep_stop=True) == "ab"
    assert text_of([a, b], StoppedByLength(2), stop_tokens=[b]) == "ab"


def test_spaces_after_special_tokens() -> None:
    """Only the one space that SentencePiece adds, and only where the special token is shown."""
    x, y, a, space_a = (TOKENS.index(text) for text in (b"<x>", b"<y>", b"a", b" a"))
    sentencepiece = Vocabulary([*TOKENS, b" <z>"], prefix_space=True)
    z = len(TOKENS)

    def text(vocabulary: Vocabulary, tokens: list[int], **options: Any) -> str:
        detokenizer = Detokenizer(vocabulary, special=SPECIAL | {z}, spaces_between_special=False, **options)
        return "".join(detokenizer.push([token]) for token in tokens) + detokenizer.finish(StoppedByLength(1))

    assert text(sentencepiece, [x, space_a, space_a, y, a], skip_special=False) == "<x>a a<y>a"
    assert text(sentencepiece, [x, z, space_a], skip_special=False) == "<x> <z>a"
    assert text(sentencepiece, [a, x, space_a], skip_special=True) == "a a"
    assert text(VOCABULARY, [x, space_a], skip_special=False) == "<x> a"
    with_spaces = Detokenizer(sentencepiece, special=SPECIAL, skip_special=False)
    assert with_spaces.push([x, space_a]) == "<x> a"


def test_broken_utf_8_at_the_end_is_one_replacement_character() -> None:
    assert text_of([TOKENS.index(b"\xe4\xb8")], StoppedByLength(1)) == "\ufffd"
    assert text_of([TOKENS.index(b"\xff"), 0], StoppedByLength(1)) == "\ufffda"


def test_an_empty_stop_string_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError):
        Detokenizer(VOCABULARY, special=SPECIAL, stop=[b""])


@pytest.mark.parametrize(
    "text",
    [
        "天地玄黄,宇宙洪荒。🙂👩‍👩‍👧‍👦 naïve",
        "def f(x):\n\treturn x  # 12345\n",
        "",
        "<|im_start|>user\nhi<|im_end|>\n",
    ],
)
@pytest.mark.parametrize("skip", [True, False])
def test_the_demonstration_model_token_by_token_says_what_its_decoder_says(
    text: str, skip: bool, smollm: Tokenizer
) -> None:
    tokens = smollm.encode(text)
    detokenizer = Detokenizer(smollm.vocabulary, special=smollm.special, skip_special=skip)
    streamed = "".join(detokenizer.push([token]) for token in tokens) + detokenizer.finish(StoppedByLength(1))
    assert streamed == smollm.decode(tokens, skip_special=skip)
