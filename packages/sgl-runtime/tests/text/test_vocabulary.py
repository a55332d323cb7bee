# SPDX-License-Identifier: Apache-2.0
"""Bytes of tokens: joined, they are the text that was encoded, for every kind of tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models

from sgl_runtime.errors import ConfigError
from sgl_runtime.text.tokenizer import Tokenizer, disagreements, load_tokenizer
from sgl_runtime.text.vocabulary import Vocabulary, vocabulary_of

PIECES = st.sampled_from(
    [
        "<s>",
        "</s>",
        "<|im_end|>",
        " ",
        "  ",
        "\n",
        "\t",
        "天地",
        "玄",
        "黄。",
        "é",
        "🙂",
        "the ",
        "12",
        "3",
        "<0x41>",
        "▁",
    ]
)
TEXT = st.lists(PIECES | st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=8).map(
    "".join
)
KINDS = ("byte-level", "sentencepiece", "metaspace", "old-metaspace")


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, Tokenizer]:
    return {kind: load_tokenizer(folder) for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def smollm_bytes(smollm: Tokenizer) -> frozenset[int]:
    """SmolLM2 has no tokens for bytes that were not in what it learned from."""
    single = frozenset(data[0] for data in smollm.vocabulary if len(data) == 1)
    assert 230 < len(single) < 256
    return single


@given(text=TEXT)
@settings(max_examples=300, deadline=None)
def test_byte_level_tokens_spell_any_text(text: str, loaded: dict[str, Tokenizer]) -> None:
    tokenizer = loaded["byte-level"]
    tokens = tokenizer.encode(text, add_special=False)
    assert tokenizer.vocabulary.join(tokens) == text.encode()


@given(text=TEXT)
@settings(max_examples=300, deadline=None)
def test_the_demonstration_model_spells_any_text_for_which_it_has_the_bytes(
    text: str, smollm: Tokenizer, smollm_bytes: frozenset[int]
) -> None:
    tokens = smollm.encode(text, add_special=False)
    assert smollm.vocabulary.join(tokens) == bytes(byte for byte in text.encode() if byte in smollm_bytes)
    assert disagreements(smollm, [text]) == []


@given(text=TEXT)
@settings(max_examples=300, deadline=None)
@pytest.mark.parametrize("kind", ["sentencepiece", "metaspace"])
def test_sentencepiece_tokens_spell_any_text_behind_a_space(
    kind: str, text: str, loaded: dict[str, Tokenizer]
) -> None:
    tokenizer = loaded[kind]
    # U+2581 is a space there, and special tokens cut a text into parts, each with a space in front.
    text = text.replace("▁", "")
    for special in ("<s>", "</s>", "<|im_end|>"):
        text = text.replace(special, "")
    tokens = tokenizer.encode(text, add_special=False)
    by_bytes = tokenizer.vocabulary.join(tokens).decode()
    if kind == "metaspace" and text.startswith(" "):
        by_bytes = " " + by_bytes  # there a space in front already counts as the one to add
    assert by_bytes == (f" {text}" if text else "")
    assert tokenizer.vocabulary.prefix_space


@given(text=TEXT)
@settings(max_examples=300, deadline=None)
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_say_what_decode_says(kind: str, text: str, loaded: dict[str, Tokenizer]) -> None:
    assert disagreements(loaded[kind], [text.replace("▁", "_")]) == []


def test_the_start_up_check_finds_a_decoder_that_rewrites() -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "<unk>": 1, "<0x41>": 2}, unk_token="<unk>"))
    backend.decoder = decoders.ByteLevel()
    tokenizer = Tokenizer(backend, {}, {})
    assert disagreements(tokenizer, ["a"]) == []
    backend.decoder = decoders.Strip("a", 1, 0)  # after the vocabulary was built
    assert disagreements(tokenizer, ["a"]) == [("a", "")]


@pytest.mark.parametrize("kind", KINDS)
def test_every_id_has_bytes_and_there_is_none_beyond(
    kind: str, loaded: dict[str, Tokenizer], folders: dict[str, Path]
) -> None:
    backend = tokenizers.Tokenizer.from_file(str(folders[kind] / "tokenizer.json"))
    vocabulary = loaded[kind].vocabulary
    assert len(vocabulary) == backend.get_vocab_size() == len(list(vocabulary))
    assert all(vocabulary[token] for token in range(len(vocabulary)))
    assert vocabulary[len(vocabulary)] == b"" == vocabulary[10**6]
    with pytest.raises(IndexError):
        vocabulary[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_single_tokens_say_what_decode_says(kind: str, loaded: dict[str, Tokenizer]) -> None:
    """Token by token, with a token before it so that no space in front is dropped."""
    tokenizer = loaded[kind]
    (before,) = tokenizer.encode("a", add_special=False)[-1:]
    start = tokenizer.decode([before])
    for token in range(len(tokenizer.vocabulary)):
        expected = tokenizer.decode([before, token], skip_special=False).removeprefix(start)
        text = tokenizer.vocabulary[token].decode(errors="replace")
        # The `tokenizers` package gives one U+FFFD per byte, Python one per ill-formed sequence.
        assert text == expected or set(expected) == {"\ufffd"} == set(text)


def test_byte_tokens_and_tokens_that_only_look_so() -> None:
    names = ["<0x41>", "<0xe4>", "<0xZZ>", "<0x041>", "▁a▁", "<0x  >"]
    backend = tokenizers.Tokenizer(models.BPE({name: token for token, name in enumerate(names)}, []))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    vocabulary = vocabulary_of(backend)
    assert list(vocabulary) == [b"A", b"\xe4", b"<0xZZ>", b"<0x041>", b" a ", b"<0x  >"]
    assert not vocabulary.prefix_space


def test_added_tokens_are_their_text_and_gaps_are_empty() -> None:
    # "é" is also how byte-level BPE writes the byte E9, and a space is no character of its alphabet.
    backend = tokenizers.Tokenizer(models.BPE({"a": 0, "Ġé": 1, "x y": 2}, []))
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken("é", normalized=False)])
    vocabulary = vocabulary_of(backend)
    assert list(vocabulary) == [b"a", b" \xe9", b"x y", "é".encode()]
    backend = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 3}, []))
    backend.decoder = decoders.ByteLevel()
    assert list(vocabulary_of(backend)) == [b"a", b"", b"", b"b"]


@pytest.mark.parametrize(
    ("decoder", "kind"),
    [
        (None, "none"),
        (decoders.WordPiece(), "WordPiece"),
        (decoders.BPEDecoder(), "BPEDecoder"),
        (decoders.Strip(" ", 0, 1), "Strip"),
        (decoders.Sequence([decoders.ByteFallback(), decoders.CTC()]), "CTC"),
    ],
)
def test_a_decoder_that_does_not_work_by_token_is_refused(
    decoder: decoders.Decoder | None, kind: str
) -> None:
    backend = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
    if decoder is not None:
        backend.decoder = decoder
    with pytest.raises(ConfigError, match=f"a step of type {kind}, which does not work token by token"):
        vocabulary_of(backend)


def test_join() -> None:
    vocabulary = Vocabulary([b"a", b"\xe4\xb8", b"\xad", b""])
    assert vocabulary.join([0, 1, 2, 3, 99]) == "a中".encode()
    assert vocabulary.join([]) == b""
