# SPDX-License-Identifier: Apache-2.0
"""How byte-level vocabularies cut text into words, by the name that a GGUF file gives in
`tokenizer.ggml.pre`.

A table: name -> regular expressions, applied one after another, each cutting the pieces that the ones before
left. The expressions are those of the models' published tokenizers; the names are llama.cpp's.
"""

from __future__ import annotations

from typing import NamedTuple


class WordSplit(NamedTuple):
    """How one family of vocabularies is used."""

    patterns: tuple[str, ...]
    whole_words: bool = False  # a word that is a token is that token, whatever the merges say
    bos: bool = False  # a text begins with the bos token, unless the file says otherwise


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_CL100K = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_LLAMA3 = _CL100K % "{1,3}"
_QWEN2 = _CL100K % ""
# A word ends where lower case turns into upper case.
_CASED_1 = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
_CASED_2 = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
_TEKKEN = rf"{_CASED_1}|{_CASED_2}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
_GPT4O = (
    rf"{_CASED_1}{_CONTRACTION}?|{_CASED_2}{_CONTRACTION}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_DEEPSEEK_3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|" + _SPACES
)
_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_CJK_AND_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_PUNCTUATION = "[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
# DeepSeek LLM's letters: most that have case, in hexadecimal.
_CASED_LETTERS = """
    41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C
    38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B
    1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4
    1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113
    2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B
    2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06
    FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF
    1E900-1E943
"""


def _class(ranges: str) -> str:
    """A regular expression's character class: 41-5A B5 -> [A-Zµ]."""
    ends = ([chr(int(end, 16)) for end in item.split("-")] for item in ranges.split())
    return "[" + "".join("-".join(pair) for pair in ends) + "]"


_SPLITS: dict[WordSplit, tuple[str, ...]] = {
    WordSplit((_GPT2,)): (
        "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "mellum",
        "a.x-4.0", "gigachat", "modern-bert",
    ),
    WordSplit((r"\p{N}", _GPT2)): (
        "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2",
    ),
    WordSplit((_LLAMA3,), whole_words=True, bos=True): (
        "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
    ),
    WordSplit((_LLAMA3,)): ("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"),
    WordSplit((_QWEN2,)): ("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "kormo", "grok-2"),
    WordSplit((_TEKKEN,), whole_words=True, bos=True): ("tekken",),
    WordSplit((_GPT4O,)): ("gpt-4o", "llama4", "kanana2"),
    WordSplit((
        r"[\r\n]", rf"\s?{_class(_CASED_LETTERS)}+", rf"\s?{_PUNCTUATION}", r"\s+$", _CJK, r"\p{N}+",
    )): ("deepseek-llm",),
    WordSplit((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")): ("deepseek-coder",),
    WordSplit((r"\p{N}{1,3}", _CJK_AND_KANA, _DEEPSEEK_3)): ("deepseek-v3", "hunyuan-dense"),
    WordSplit((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")): ("falcon",),
    # What llama.cpp does with files from before the names existed.
    WordSplit((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")): ("default",),
}  # fmt: skip

WORD_SPLITS = {name: split for split, names in _SPLITS.items() for name in names}
