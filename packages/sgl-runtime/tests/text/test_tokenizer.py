# SPDX-License-Identifier: Apache-2.0
"""Tokenizers from a folder's files, against transformers reading the same folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sgl_runtime.errors import ConfigError, InvalidRequest
from sgl_runtime.text.tokenizer import Tokenizer, load_tokenizer

WriteFolder = Callable[..., Path]
PIECES = st.sampled_from(
    [
        *(
            "<s>",
            "</s>",
            "<unk>",
            "<|im_start|>user\n",
            "<|im_end|>",
            " ",
            "   ",
            "\n\n",
            "\t",
            "天地玄黄",
            "。",
        ),
        *("naïve", "🙂", "👩‍👩‍👧‍👦", "def f(x):\n    return ", "it's", "I'LL", "2024", " 12", "é", "e\u0301"),
        *("\u00a0", "\u3000", "\x00"),
    ]
)
TEXT = st.lists(PIECES | st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=8).map(
    "".join
)
KINDS = ("byte-level", "sentencepiece", "metaspace", "old-metaspace")


@pytest.fixture(scope="module")
def pairs(folders: dict[str, Path]) -> dict[str, tuple[Tokenizer, Any]]:
    return {
        kind: (load_tokenizer(folder), AutoTokenizer.from_pretrained(folder))
        for kind, folder in folders.items()
    }


@given(text=TEXT)
@settings(max_examples=400, deadline=None)
@pytest.mark.parametrize("kind", KINDS)
def test_text_becomes_the_tokens_that_transformers_makes(
    kind: str, text: str, pairs: dict[str, tuple[Tokenizer, Any]]
) -> None:
    ours, theirs = pairs[kind]
    tokens = ours.encode(text)
    assert tokens == theirs.encode(text)
    assert ours.encode(text, add_special=False) == theirs.encode(text, add_special_tokens=False)
    for skip in (True, False):
        assert ours.decode(tokens, skip_special=skip) == theirs.decode(tokens, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_those_of_transformers(kind: str, pairs: dict[str, tuple[Tokenizer, Any]]) -> None:
    ours, theirs = pairs[kind]
    assert ours.special == {token for token, entry in theirs.added_tokens_decoder.items() if entry.special}
    assert ours.special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert (ours.bos, ours.adds_bos) == (theirs.bos_token_id, kind != "old-metaspace")
    assert len(ours.vocabulary) == len(theirs)
    assert ours.token_id("</s>") == theirs.eos_token_id
    assert ours.token_id("no such token") is None


@pytest.mark.parametrize("ends", [{}, {"add_bos_token": False}, {"add_eos_token": True}])
def test_what_stands_around_a_text_is_for_tokenizer_json_to_say(
    ends: dict[str, bool], write_folder: WriteFolder
) -> None:
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    folder = write_folder(tokenizer_config=config | ends)
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.encode("the 天") == theirs.encode("the 天")
    assert ours.adds_bos


def test_tokens_that_only_the_configuration_calls_special(write_folder: WriteFolder) -> None:
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "x",  # an ordinary token of the vocabulary
        "pad_token": "[PAD]",  # not a token at all
        "additional_special_tokens": ["y"],
        "added_tokens_decoder": {"7": {"content": "z", "special": True, "lstrip": True}},
    }
    tokenizer = load_tokenizer(write_folder(tokenizer_config=config, special_tokens_map={"bos_token": "<s>"}))
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "x"}
    assert tokenizer.token_id("[PAD]") is None
    assert {tokenizer.token_id(text) for text in "xyz"} < tokenizer.special
    assert tokenizer.decode(tokenizer.encode("axbyc zd")) == "abcd", "z takes the space to its left"


def test_truncation_and_padding_of_the_file_do_not_apply(write_folder: WriteFolder) -> None:
    folder = write_folder()
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    backend.save(str(folder / "tokenizer.json"))
    text = "The quick brown fox jumps over the lazy dog"
    tokens = load_tokenizer(folder).encode(text, add_special=False)
    assert load_tokenizer(folder).decode(tokens, skip_special=False) == text


def test_half_a_surrogate_pair_is_the_requests_mistake(smollm: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match="half of a surrogate pair"):
        smollm.encode("fine so far \ud83d")


def test_a_tokenizer_json_may_be_named_itself(folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(folders["byte-level"] / "tokenizer.json")
    assert tokenizer.special_tokens["eos_token"] == "</s>"


def test_chat_templates_come_from_where_publishers_put_them(write_folder: WriteFolder) -> None:
    assert load_tokenizer(write_folder()).chat_template is None
    assert load_tokenizer(write_folder(tokenizer_config={"chat_template": "one"})).chat_template == "one"
    listed = [{"name": "default", "template": "two"}, {"name": "tool_use", "template": "tools"}]
    tokenizer = load_tokenizer(write_folder(tokenizer_config={"chat_template": listed}))
    assert (tokenizer.chat_template, tokenizer.chat_templates["tool_use"]) == ("two", "tools")
    mapped = {"chat_template": {"default": "three"}}
    assert load_tokenizer(write_folder(tokenizer_config=mapped)).chat_template == "three"
    folder = write_folder(chat_template="four é", additional_chat_templates__rag="five")
    assert load_tokenizer(folder).chat_templates == {"default": "four é", "rag": "five"}


def test_an_older_chat_template_file(write_folder: WriteFolder) -> None:
    (folder := write_folder()).joinpath("chat_template.json").write_text('{"chat_template": "six"}')
    assert load_tokenizer(folder).chat_template == "six"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", r"tokenizer\.json cannot be read"),
        ("tokenizer.json", "{}", r"tokenizer\.json cannot be read"),
        ("tokenizer_config.json", "[", r"tokenizer_config\.json cannot be read"),
        ("special_tokens_map.json", "[]", r"special_tokens_map\.json must hold a JSON object"),
        (
            "tokenizer_config.json",
            '{"chat_template": ["x"]}',
            "chat_template must be a text or a list of objects",
        ),
    ],
)
def test_a_damaged_file_is_named(name: str, content: str, message: str, write_folder: WriteFolder) -> None:
    folder = write_folder()
    (folder / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_tokenizer(folder)


def test_a_folder_without_tokenizer_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no tokenizer\.json; write one with transformers"):
        load_tokenizer(tmp_path)
