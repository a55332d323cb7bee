# SPDX-License-Identifier: Apache-2.0
"""Tokenizers from GGUF metadata: against the published tokenizer, transformers' conversion, and
SentencePiece's rule.

transformers (5.23) does not know the pre-tokenizer named "smollm" and cuts like GPT-2 instead, which differs
from SmolLM2's published tokenizer where white space stands before a digit: "  1" is there one token of two
spaces and a digit. There, the published rule is the oracle: digits one by one, then GPT-2's.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, models, pre_tokenizers
from transformers import AutoTokenizer

from sgl_runtime.checkpoint.gguf import GGUFFile
from sgl_runtime.errors import ConfigError
from sgl_runtime.text.gguf_tokenizer import backend_from_gguf
from sgl_runtime.text.pretokenizers import WORD_SPLITS
from sgl_runtime.text.tokenizer import Tokenizer

FILE = Path("model.gguf")
PIECES = st.sampled_from(
    [
        *(
            "<|im_start|>user\n",
            "<|im_end|>",
            "<|endoftext|>",
            " ",
            "  ",
            "\n\n",
            "\t",
            "天地玄黄",
            "。",
            "naïve",
        ),
        *("🙂", "it's", "def f(x):\n    return ", "I'LL", "2024", " 12", "½", "٣", "é", "e\u0301", "\u00a0"),
        *("\u3000", "<repo_name>", "x86"),
    ]
)
TEXT = st.lists(PIECES | st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=8).map(
    "".join
)


@pytest.fixture(scope="module")
def by_transformers(demonstration: Path) -> Any:
    return AutoTokenizer.from_pretrained(demonstration.parent, gguf_file=demonstration.name)


@pytest.fixture(scope="module")
def published(demonstration: Path) -> tokenizers.Tokenizer:
    """As SmolLM2's tokenizer.json says: Digits, then ByteLevel; the first 17 tokens are special."""
    metadata = GGUFFile(demonstration).metadata
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    backend = tokenizers.Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in tokens[:17]])
    return backend


@given(text=TEXT)
@settings(max_examples=1000, deadline=None)
def test_the_demonstration_model_as_it_was_published(
    text: str, smollm: Tokenizer, published: tokenizers.Tokenizer
) -> None:
    assert smollm.encode(text) == published.encode(text).ids


@given(text=TEXT)
@settings(max_examples=500, deadline=None)
def test_the_demonstration_model_as_transformers_converts_it(
    text: str, smollm: Tokenizer, by_transformers: Any
) -> None:
    if not any(before.isspace() and after.isnumeric() for before, after in pairwise(text)):
        tokens = smollm.encode(text)
        assert tokens == by_transformers.encode(text)
        for skip in (True, False):
            assert smollm.decode(tokens, skip_special=skip) == by_transformers.decode(
                tokens, skip_special_tokens=skip
            )


def test_where_transformers_conversion_is_wrong(smollm: Tokenizer, by_transformers: Any) -> None:
    def texts(tokens: list[int]) -> list[str]:
        return [smollm.decode([token]) for token in tokens]

    assert texts(smollm.encode("a  1")) == ["a", "  ", "1"]
    assert texts(by_transformers.encode("a  1")) == ["a", " ", " ", "1"], (
        "mended? Then compare all texts above"
    )


def test_special_tokens_of_the_demonstration_model(smollm: Tokenizer, by_transformers: Any) -> None:
    assert smollm.special_tokens == {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|im_end|>",
    }
    assert smollm.special == frozenset(range(17))
    assert (smollm.bos, smollm.adds_bos) == (1, False)
    assert len(smollm.vocabulary) == 49152
    assert smollm.chat_template == by_transformers.chat_template


# ------------------------------------------------------------------------------------------------
# SentencePiece

PLAIN = [
    *"abcde",
    "▁",
    "ab",
    "bc",
    "abc",
    "▁a",
    "▁ab",
    "cd",
    "cde",
    "de",
    "dd",
    "▁▁",
    "ea",
    "天",
    "地",
    "天地",
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def sentencepiece_metadata(scores: Mapping[str, float], **more: Any) -> dict[str, Any]:
    tokens = ["<unk>", "<s>", "</s>", *BYTES, *scores, "<|user|>", "<tool>", "eb"]
    kinds = [2, 3, 3] + [6] * 256 + [1] * len(scores) + [3, 4, 5]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": [0.0] * 259 + list(scores.values()) + [-1000.0] * 3,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in more.items()}


def load(metadata: dict[str, Any]) -> Tokenizer:
    backend, named = backend_from_gguf(FILE, metadata)
    return Tokenizer(backend, named, {})


def by_the_rule(text: str, tokens: list[str], scores: Mapping[str, float]) -> list[int]:
    """SentencePiece: join the neighbours whose union scores highest, leftmost first; what is left
    over is bytes.
    """
    symbols = list("▁" + text.replace(" ", "▁")) if text else []
    while True:
        unions = [(-scores[a + b], at) for at, (a, b) in enumerate(pairwise(symbols)) if a + b in scores]
        if not unions:
            break
        _, at = min(unions)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    ids = {token: place for place, token in enumerate(tokens)}
    found: list[int] = []
    for symbol in symbols:
        found += [ids[symbol]] if symbol in scores else [ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return found


@given(
    order=st.permutations(PLAIN),
    text=st.text(st.sampled_from("abcde 天地é🙂\n"), max_size=16),
)
@settings(max_examples=500, deadline=None)
def test_scores_are_merged_as_sentencepiece_merges(order: list[str], text: str) -> None:
    scores = {piece: -float(place) for place, piece in enumerate(order)}
    metadata = sentencepiece_metadata(scores)
    tokenizer = load(metadata)
    expected = by_the_rule(text, metadata["tokenizer.ggml.tokens"], scores)
    assert tokenizer.encode(text) == [1, *expected]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def sentencepiece(**more: Any) -> Tokenizer:
    return load(sentencepiece_metadata({piece: -float(place) for place, piece in enumerate(PLAIN)}, **more))


def test_control_tokens_are_special_and_user_defined_ones_are_not() -> None:
    tokenizer = sentencepiece()
    user, tool = tokenizer.token_id("<|user|>"), tokenizer.token_id("<tool>")
    assert user in tokenizer.special and tool not in tokenizer.special
    tokens = tokenizer.encode("ab<|user|>ab<tool>")
    assert tokens.count(user or -1) == tokens.count(tool or -1) == 1
    assert tokenizer.decode(tokens) == "ab ab<tool>"
    assert tokenizer.decode(tokens, skip_special=False) == "<s> ab<|user|> ab<tool>"
    assert tokenizer.vocabulary[user or 0] == b"<|user|>"
    unused = tokenizer.token_id("eb")
    assert unused is not None and unused not in tokenizer.encode("eb")


def test_byte_tokens_are_no_text() -> None:
    tokenizer = sentencepiece()
    assert tokenizer.token_id("<0x41>") not in tokenizer.encode("<0x41>")
    assert tokenizer.vocabulary[tokenizer.token_id("<0x0A>") or 0] == b"\n"


def test_what_stands_around_a_text() -> None:
    assert sentencepiece().adds_bos
    assert sentencepiece(add_bos_token=False, add_eos_token=True).encode("")[:2] == [2]
    assert sentencepiece(add_eos_token=True).encode("") == [1, 2]
    without_space = sentencepiece(add_space_prefix=False)
    assert without_space.vocabulary.join(without_space.encode("ab", add_special=False)) == b"ab"
    assert without_space.decode(without_space.encode(" ab")) == " ab"
    assert not without_space.vocabulary.prefix_space


def test_sentencepiece_as_transformers_converts_it(tmp_path: Path) -> None:
    """Where both follow SentencePiece: text without special tokens that does not begin with a space."""
    metadata = sentencepiece_metadata({piece: -float(place) for place, piece in enumerate(PLAIN)})
    writer = gguf.GGUFWriter(tmp_path / "small.gguf", "llama")
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_uint32(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="small.gguf")
    ours = load(metadata)
    for text in ("abcde", "ab  cd", "天地 é🙂\n", "ddeabc", "a", "", "cdea\n\nabc ab"):
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == text


# -------------------------------------------------------------------------------------------------- byte
# level


def byte_level_metadata(**more: Any) -> dict[str, Any]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "</s>", *alphabet, "ab", "abc", "Ġa", "12", "<tool call>"]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3] + [1] * (len(tokens) - 3) + [4],
        "tokenizer.ggml.merges": ["a b", "Ġ a", "1 2"],  # none makes abc
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in more.items()}


def test_bos_and_whole_words_follow_from_the_pre_tokenizer() -> None:
    gpt_2, llama_3 = load(byte_level_metadata()), load(byte_level_metadata(pre="llama-bpe"))
    assert (gpt_2.adds_bos, llama_3.adds_bos) == (False, True)
    assert load(byte_level_metadata(add_bos_token=True)).adds_bos
    assert not load(byte_level_metadata(pre="llama-bpe", add_bos_token=False)).adds_bos
    abc = gpt_2.token_id("abc")
    assert abc not in gpt_2.encode("abc") and abc in llama_3.encode("abc")
    tool = gpt_2.token_id("<tool call>")
    assert gpt_2.encode("a<tool call>").count(tool or -1) == 1 and tool not in gpt_2.special


def test_digits_are_cut_as_the_pre_tokenizer_says() -> None:
    pair = load(byte_level_metadata()).token_id("12")
    assert pair in load(byte_level_metadata(pre="gpt-2")).encode("12")
    assert pair not in load(byte_level_metadata(pre="smollm")).encode("12")
    assert pair not in load(byte_level_metadata(pre="qwen2")).encode("12")


# Words by the published tokenizers, as they are described or can be derived by hand.
TEXT_TO_CUT = "It's 1234 中文,ok  \n\n  xY"
CUTS = {
    "gpt-2": ["It", "'s", " 1234", " 中文", ",", "ok", "  \n\n ", " xY"],
    "smollm": ["It", "'s", " ", "1", "2", "3", "4", " 中文", ",", "ok", "  \n\n ", " xY"],
    "llama-bpe": ["It", "'s", " ", "123", "4", " 中文", ",ok", "  \n\n", " ", " xY"],
    "qwen2": ["It", "'s", " ", "1", "2", "3", "4", " 中文", ",ok", "  \n\n", " ", " xY"],
    "tekken": ["It", "'s", " ", "1", "2", "3", "4", " 中文", ",ok", "  \n\n", " ", " x", "Y"],
    "gpt-4o": ["It's", " ", "123", "4", " 中文", ",ok", "  \n\n", " ", " x", "Y"],
    "deepseek-llm": [
        "It",
        "'",
        "s",
        " ",
        "1234",
        " ",
        "中文",
        ",",
        "ok",
        "  ",
        "\n",
        "\n",
        " ",
        " xY",
    ],
    "deepseek-coder": [
        "It",
        "'",
        "s",
        " ",
        "1",
        "2",
        "3",
        "4",
        " ",
        "中文",
        ",",
        "ok",
        "  ",
        "\n",
        "\n",
        " ",
        " xY",
    ],
    "deepseek-v3": ["It", "'s", " ", "123", "4", " ", "中文", ",ok", "  \n\n", " ", " xY"],
    "falcon": ["It", "'", "s", " ", "123", "4", " 中文", ",", "ok", "  \n\n ", " xY"],
    "default": ["It", "'", "s", " ", "123", "4", " 中文", ",", "ok", "  \n\n ", " xY"],
}


@pytest.mark.parametrize("name", CUTS)
def test_words_of_each_pre_tokenizer(name: str) -> None:
    pieces = [(TEXT_TO_CUT, (0, len(TEXT_TO_CUT)))]
    for pattern in WORD_SPLITS[name].patterns:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        pieces = [piece for text, _ in pieces for piece in split.pre_tokenize_str(text)]
    assert [text for text, _ in pieces] == CUTS[name]


def test_every_pre_tokenizer_keeps_every_character() -> None:
    text = "It's 1234567 naïve 中文,ok  \n\n  xY\t🙂 It'LL ½ ДА #a\r\n<br/> "
    for name in WORD_SPLITS:
        tokenizer = load(byte_level_metadata(pre=name))
        assert tokenizer.vocabulary.join(tokenizer.encode(text, add_special=False)) == text.encode(), name
    assert {
        "default",
        "llama-bpe",
        "llama3",
        "smollm",
        "gpt-2",
        "qwen2",
        "deepseek-llm",
    } <= WORD_SPLITS.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pre": "from-the-future"}, r"tokenizer\.ggml\.pre is 'from-the-future'.*--tokenizer-path"),
        ({"model": "bert"}, r"tokenizer\.ggml\.model is 'bert'"),
        ({"model": None}, r"tokenizer\.ggml\.model is None"),
        ({"tokens": None}, r"tokenizer\.ggml\.tokens is missing"),
        ({"tokens": []}, r"tokenizer\.ggml\.tokens must be an array of str, not empty"),
        ({"tokens": [1, 2]}, r"tokenizer\.ggml\.tokens must be an array of str"),
        ({"tokens": ["a", "a"], "token_type": [1, 1]}, r"tokenizer\.ggml\.tokens names a token twice"),
        ({"token_type": [1, 1]}, r"tokenizer\.ggml\.token_type has 2 entries for"),
        ({"merges": None}, r"tokenizer\.ggml\.merges is missing"),
        ({"merges": ["ab"]}, r"tokenizer\.ggml\.merges has an entry that is not two tokens: 'ab'"),
        ({"merges": ["a zzz"]}, "vocabulary and merges disagree"),
        ({"model": "llama", "scores": [0.5]}, r"tokenizer\.ggml\.scores has 1 entries for"),
        ({"model": "llama"}, r"tokenizer\.ggml\.scores is missing"),
    ],
)
def test_a_wrong_key_is_named(change: dict[str, Any], message: str) -> None:
    metadata = {key: value for key, value in byte_level_metadata(**change).items() if value is not None}
    with pytest.raises(ConfigError, match=rf"model\.gguf: .*{message}"):
        load(metadata)


def test_a_named_token_out_of_range_is_not_named() -> None:
    assert "bos_token" not in load(byte_level_metadata(bos_token_id=10**6)).special_tokens
