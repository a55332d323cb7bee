# SPDX-License-Identifier: Apache-2.0
"""`Tokenizer`: text to token ids and back, over the `tokenizers` package.

It is read from a folder's tokenizer.json and the small files beside it, which name special tokens and chat
templates, or from the metadata of a GGUF file. `transformers` is not needed. The server itself decodes
through `vocabulary`; `decode` is the tokenizer's own notion of the text, and `disagreements` compares the
two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from sgl_runtime.checkpoint.fields import read_json
from sgl_runtime.checkpoint.gguf import GGUFFile
from sgl_runtime.errors import ConfigError, InvalidRequest
from sgl_runtime.text.gguf_tokenizer import backend_from_gguf
from sgl_runtime.text.vocabulary import Vocabulary, vocabulary_of

_OPENINGS = ("\n", ".", "x")
_ADDED_TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


class Tokenizer:
    """One model's tokenizer.

    `special` holds the ids that have no text of their own; `special_tokens` the written form of the named
    ones, "bos_token" -> "<s>"; `chat_templates` jinja texts by name, of which `chat_template` is the default
    one.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special_tokens: Mapping[str, str],
        chat_templates: Mapping[str, str],
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.vocabulary: Vocabulary = vocabulary_of(backend)
        self.special = frozenset(
            token for token, entry in backend.get_added_tokens_decoder().items() if entry.special
        )
        self.special_tokens = dict(special_tokens)
        bos = self.special_tokens.get("bos_token")
        self.bos: int | None = None if bos is None else backend.token_to_id(bos)
        self.chat_templates = dict(chat_templates)

    @property
    def chat_template(self) -> str | None:
        return self.chat_templates.get("default")

    @property
    def adds_bos(self) -> bool:
        """Does `encode` put the bos token before a text?"""
        return self.bos is not None and self.encode("")[:1] == [self.bos]

    def token_id(self, text: str) -> int | None:
        """The id of the token written exactly so, if there is one."""
        token: int | None = self._backend.token_to_id(text)
        return token

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """The ids of `text`; special tokens written out in it become those tokens.

        `add_special` adds what the model's texts begin (and end) with, such as the bos token. Raises
        InvalidRequest if the text holds half a surrogate pair, which no encoding can express.
        """
        try:
            return list(self._backend.encode(text, add_special_tokens=add_special).ids)
        except TypeError as error:  # how `tokenizers` refuses a str that UTF-8 cannot express
            raise InvalidRequest(
                "the text is not valid Unicode: it holds half of a surrogate pair"
            ) from error

    def encode_part(self, text: bytes) -> list[int]:
        """The ids of whole characters that stand inside a text: no special tokens, nothing put in front.

        [] if the tokenizer does not write the text as it is there.
        """
        written = text.decode()
        # Where a space is put in front of a text, another text in front keeps it from this one, if the
        # tokenizer parts the two.
        for opening in _OPENINGS if self.vocabulary.prefix_space else ("",):
            first = self.encode(opening, add_special=False)
            ids = self.encode(opening + written, add_special=False)
            if ids[: len(first)] == first and self.special.isdisjoint(ids):
                return ids[len(first) :]
        return []

    def decode(self, tokens: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of `tokens`, by the tokenizer's own decoder; ids it does not know have none."""
        text: str = self._backend.decode(list(tokens), skip_special_tokens=skip_special)
        return text


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a model's folder, of a tokenizer.json with the files beside it, or in a GGUF file.

    Raises ConfigError naming the file that is missing or wrong.
    """
    if path.suffix == ".gguf":
        metadata = GGUFFile(path).metadata
        backend, named = backend_from_gguf(path, metadata)
        return Tokenizer(backend, named, _gguf_chat_templates(metadata))
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(
            f"{path} holds no tokenizer.json; write one with transformers "
            f"(AutoTokenizer.from_pretrained(...).save_pretrained(...)) or give --tokenizer-path"
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise ConfigError(f"{file} cannot be read: {error}") from error
    folder = file.parent
    config = _optional_json(folder / "special_tokens_map.json") | _optional_json(
        folder / "tokenizer_config.json"
    )
    named = _apply_config(backend, config)
    return Tokenizer(backend, named, _chat_templates(folder, config))


def disagreements(tokenizer: Tokenizer, texts: Iterable[str]) -> list[tuple[str, str]]:
    """Where the bytes of a text's tokens do not spell what `decode` says: (by bytes, by `decode`).

    For the start-up check. A tokenizer that rewrites text while decoding (old clean-up rules) is found so.
    """
    found = []
    for text in texts:
        tokens = tokenizer.encode(text, add_special=False)
        by_bytes = tokenizer.vocabulary.join(tokens).decode(errors="replace")
        if tokenizer.vocabulary.prefix_space:
            by_bytes = by_bytes.removeprefix(" ")
        by_decoder = tokenizer.decode(tokens, skip_special=False)
        if by_bytes != by_decoder:
            found.append((by_bytes, by_decoder))
    return found


def _optional_json(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _apply_config(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> dict[str, str]:
    """Mark the special tokens that `config` names; returns those named one by one, as "bos_token" -> "<s>".

    Named tokens that the tokenizer does not have stay unknown: a new id would be one that the model lacks.
    What is put around a text (add_bos_token and its like) tokenizer.json says itself, and it is right.
    """
    named: dict[str, str] = {}
    special: list[AddedToken] = []
    for name, value in config.items():
        if name.endswith("_token") and (token := _added_token(value)) is not None:
            named[name] = token.content
            special.append(token)
    for name in ("additional_special_tokens", "extra_special_tokens"):
        values = config.get(name) or []
        listed = values.values() if isinstance(values, Mapping) else values
        special += [token for value in listed if (token := _added_token(value)) is not None]
    for value in (config.get("added_tokens_decoder") or {}).values():
        if isinstance(value, Mapping) and value.get("special") and (token := _added_token(value)) is not None:
            special.append(token)
    known = {entry.content for entry in backend.get_added_tokens_decoder().values() if entry.special}
    backend.add_special_tokens(
        [
            token
            for token in special
            if token.content not in known and backend.token_to_id(token.content) is not None
        ]
    )
    return {name: text for name, text in named.items() if backend.token_to_id(text) is not None}


def _added_token(value: Any) -> AddedToken | None:
    """A special token given as its text or as an object with `content`."""
    if isinstance(value, str) and value:
        return AddedToken(value, special=True, normalized=False)
    if isinstance(value, Mapping) and isinstance(value.get("content"), str) and value["content"]:
        flags = {flag: bool(value[flag]) for flag in _ADDED_TOKEN_FLAGS if flag in value}
        return AddedToken(value["content"], special=True, **{"normalized": False, **flags})
    return None


def _chat_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """By name. A chat_template.jinja beside the tokenizer comes before what its configuration says."""
    given = _optional_json(folder / "chat_template.json").get("chat_template") or config.get("chat_template")
    templates: dict[str, str] = {}
    if isinstance(given, str):
        templates["default"] = given
    elif isinstance(given, Mapping):
        templates |= {str(name): str(text) for name, text in given.items()}
    elif isinstance(given, list):
        if not all(isinstance(entry, Mapping) and {"name", "template"} <= entry.keys() for entry in given):
            raise ConfigError(
                f"{folder}: chat_template must be a text or a list of objects with name and template"
            )
        templates |= {str(entry["name"]): str(entry["template"]) for entry in given}
    for file in sorted(folder.glob("additional_chat_templates/*.jinja")):
        templates[file.stem] = file.read_text(encoding="utf-8")
    if (file := folder / "chat_template.jinja").is_file():
        templates["default"] = file.read_text(encoding="utf-8")
    return templates


def _gguf_chat_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    prefix = "tokenizer.chat_template"
    return {
        key.removeprefix(prefix).removeprefix(".") or "default": value
        for key, value in metadata.items()
        if key.startswith(prefix) and isinstance(value, str)
    }
