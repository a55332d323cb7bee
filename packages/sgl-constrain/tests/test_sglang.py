# SPDX-License-Identifier: Apache-2.0
"""The backend for SGLang: its methods against the recorded interface, the calls a scheduler makes, and, where
SGLang's wheel is at hand (see peer_modules), its own base classes, cache and reasoning wrapper.
"""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from sgl_constrain import ConstrainError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

_spec = importlib.util.spec_from_file_location("peer_modules", Path(__file__).with_name("peer_modules.py"))
assert _spec is not None and _spec.loader is not None
peers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(peers)

INTERFACE = peers.interface("sglang")
BASE = "sglang.srt.constrained.base_grammar_backend"
REASONER = "sglang.srt.constrained.reasoner_grammar_backend"
MATCHER = "sglang.srt.utils.token_sequence_matcher"
SIZE = 272


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    characters = pre_tokenizers.ByteLevel.alphabet()
    pieces = {character: i for i, character in enumerate(sorted(characters))}
    found = tokenizers.Tokenizer(models.BPE(pieces, []))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens(["</s>", "<eot>", "</think>"])
    found.add_tokens(["yes", '{"'])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=found, eos_token="</s>")


def serving(**options: Any) -> Any:
    plain = {
        "constrained_json_whitespace_pattern": None,
        "constrained_json_disable_any_whitespace": False,
        "constrained_json_max_whitespace_cnt": None,
        "reasoning_parser": None,
        "enable_strict_thinking": False,
    }
    return SimpleNamespace(**plain | options)


class ReasoningParser:
    """As far as the reasoning wrapper asks it."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.detector = SimpleNamespace(
            think_end_token="</think>",
            think_excluded_tokens=None,
            get_think_end_token_ids=lambda tokenizer: [tokenizer.convert_tokens_to_ids("</think>")],
            get_answer_frame=lambda: None,
        )


@pytest.fixture(params=["recorded", "wheel"])
def adapter(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "recorded":
        with peers.recorded("sglang"):
            yield importlib.import_module("sgl_constrain.sglang")
        return
    if peers.wheel("sglang") is None:
        pytest.skip("no wheel of SGLang in SGL_PEERS")
    limit = SimpleNamespace(get=lambda: -1)
    replaced = {
        "sglang.srt.environ:envs": SimpleNamespace(SGLANG_MAX_THINK_TOKENS=limit),
        "sglang.srt.parser.reasoning_parser:ReasoningParser": ReasoningParser,
        "sglang.srt.server_args:add_grammar_backend_choices": [].extend,
        "sglang.srt.runtime_context:get_exec": lambda: SimpleNamespace(
            kernel=SimpleNamespace(grammar_backend="sgl-constrain")
        ),
    }
    with peers.of_wheel("sglang", {BASE, REASONER, MATCHER}, replaced, missing=set()):
        yield importlib.import_module("sgl_constrain.sglang")


@pytest.fixture
def backend(adapter: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(adapter, "get_serving", serving)
    return adapter.create(None, tokenizer, SIZE, None)


def ids(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer.encode(text)
    return found


def finite(grammar: Any, width: int = SIZE) -> list[int]:
    """What a sampler may choose, by the calls that SGLang makes for each batch."""
    mask = grammar.allocate_vocab_mask(vocab_size=width, batch_size=2, device="cpu")
    assert mask.shape == (2, (width + 31) // 32) and (mask == -1).all() and mask.dtype == torch.int32
    grammar.fill_vocab_mask(mask, 1)
    logits = torch.randn(2, width)
    before = logits.clone()
    grammar.apply_vocab_mask(logits=logits, vocab_mask=grammar.move_vocab_mask(mask, "cpu"))
    assert torch.equal(logits[0], before[0]), "the other row is free"
    kept = torch.isfinite(logits[1])
    assert torch.equal(logits[1][kept], before[1][kept])
    grammar.reset_vocab_mask(mask)
    assert (mask == -1).all()
    chosen: list[int] = kept.nonzero().flatten().tolist()
    return chosen


def test_the_methods_are_those_of_the_recorded_version(adapter: Any) -> None:
    assert INTERFACE["version"] == "0.5.23", "say in sglang.py and the README which version this is for"
    recorded = INTERFACE["modules"]
    for ours, theirs in (
        (adapter.ConstrainGrammar, "BaseGrammarObject"),
        (adapter.ConstrainBackend, "BaseGrammarBackend"),
    ):
        methods = recorded[BASE][theirs]
        assert peers.differing(ours, methods, inherited=ours.__mro__[2]) == {}
    verbs = {name for name in recorded[BASE]["BaseGrammarObject"]["methods"] if not name.startswith("_")}
    inherited = {"finished", "maybe_init_reasoning", "fill_vocab_mask_batched"}
    assert verbs - inherited <= set(vars(adapter.ConstrainGrammar)) | set(
        vars(adapter.ConstrainGrammar.__mro__[1])
    )
    assert set(vars(serving())) <= set(recorded["sglang.srt.arg_groups.fields.serving"]["Serving"]["fields"])
    reasoner = recorded[REASONER]["ReasonerGrammarBackend"]["methods"]["__init__"]["parameters"]
    assert reasoner == ["self", "grammar_backend", "reasoning_parser", "tokenizer", "enable_strict_thinking="]
    parser = recorded["sglang.srt.parser.reasoning_parser"]["ReasoningParser"]["methods"]["__init__"][
        "parameters"
    ]
    assert {"model_type=", "stream_reasoning=", "tokenizer="} <= set(parser)
    assert recorded[BASE]["register_grammar_backend"]["parameters"] == ["name", "init_func"]


TAG = {"structures": [{"begin": "<f>", "schema": {"type": "null"}, "end": "</f>"}], "triggers": ["<f"]}
KINDS = [
    ("json", '{"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": false}',
     ['{"a": null}', "{}"], ["[]", '{"b": 1}']),
    ("json", "$$ANY$$", ['[1, {"a": null}]', '"é"'], ["[", "yes"]),
    ("regex", r"\d{2}-é+", ["12-é"], ["12-", "١-é"]),
    ("ebnf", 'root ::= "(" root ")" | ""', ["(())", ""], ["(()"]),
    ("ebnf", 'start: "(" start ")" | ', ["(())", ""], ["(()"]),
    ("structural_tag", json.dumps(TAG), ["hi <f>null</f>", ""], ["<f>1</f>", "<f"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "source", "good", "bad"), KINDS)
def test_every_kind_of_grammar(
    backend: Any, tokenizer: Any, kind: str, source: str, good: list[str], bad: list[str]
) -> None:
    for text, expected in [(t, True) for t in good] + [(t, False) for t in bad]:
        grammar = getattr(backend, f"dispatch_{kind}")(source)
        for token in [*ids(tokenizer, text), tokenizer.eos_token_id]:
            chosen = finite(grammar)
            assert max(chosen) < len(tokenizer), "what the logits have beyond the tokenizer is never allowed"
            if token not in chosen:
                with pytest.raises(ValueError, match=f"token {token} is not allowed"):
                    grammar.accept_token(token)
                break
            grammar.accept_token(token)
            assert grammar.current_token == token
        assert grammar.is_terminated() == expected, text


def test_the_life_of_a_request(backend: Any, tokenizer: Any) -> None:
    eos = tokenizer.eos_token_id
    template = backend.dispatch_regex("abc?")
    grammar, other = template.copy(), template.copy()
    a, b, c = ids(tokenizer, "abc")
    for token in (a, b):
        grammar.accept_token(token)
    assert finite(grammar) == sorted([c, eos]) and finite(other) == finite(template) == [a]
    twin = grammar.copy()
    grammar.accept_token(eos)
    assert grammar.is_terminated() and not twin.is_terminated() and finite(grammar) == [eos]
    grammar.accept_token(a)  # of a batch that was already running
    grammar.rollback(1)
    assert not grammar.is_terminated() and finite(grammar) == sorted([c, eos])
    grammar.rollback(2)
    assert finite(grammar) == [a]
    with pytest.raises(ValueError, match="1 of 0"):
        grammar.rollback(1)
    for token in (b, SIZE + 1, -1):
        with pytest.raises(ConstrainError, match=f"token {token} is not allowed"):
            grammar.accept_token(token)
    assert finite(grammar) == [a], "nothing changed"


def test_a_tree_of_drafts_leaves_no_trace(backend: Any, tokenizer: Any) -> None:
    """Speculative decoding walks a tree of tokens: accept, fill, go deeper, take back."""
    grammar = backend.dispatch_json('{"enum": ["ab", "ac", 12]}')
    rng = random.Random(1)
    before = finite(grammar)

    def walk(depth: int) -> int:
        visited = 1
        choices = finite(grammar)
        for token in rng.sample(choices, min(2, len(choices))):
            grammar.accept_token(token)
            if not grammar.is_terminated() and depth < 6:
                visited += walk(depth + 1)
            grammar.rollback(1)
            assert finite(grammar) == choices
        return visited

    assert walk(0) > 8
    assert finite(grammar) == before


@pytest.mark.gpu
@pytest.mark.parametrize("adapter", ["recorded"], indirect=True)
def test_masks_are_applied_on_the_device(backend: Any) -> None:
    grammar = backend.dispatch_regex("[a-z]")
    mask = grammar.allocate_vocab_mask(SIZE, 2, "cuda")
    grammar.fill_vocab_mask(mask, 1)
    logits = torch.randn(2, SIZE, device="cuda", dtype=torch.bfloat16)
    before = logits.clone()
    grammar.apply_vocab_mask(logits, grammar.move_vocab_mask(mask, "cuda"))
    assert torch.equal(logits[0], before[0])
    assert torch.isfinite(logits[1]).nonzero().flatten().tolist() == finite(grammar)


def test_widths_of_masks_and_of_the_vocabulary_may_differ(backend: Any) -> None:
    grammar = backend.dispatch_regex("[a-z]")
    letters = finite(grammar)
    assert finite(grammar, width=SIZE + 200) == letters
    narrow = [token for token in letters if token < 64]
    assert finite(grammar, width=64) == narrow


def test_jumping_forward(backend: Any, tokenizer: Any) -> None:
    grammar = backend.dispatch_regex('x?\\{"näme": [0-9]\\}')
    assert grammar.try_jump_forward(tokenizer) is None, "there is a choice"
    grammar.accept_token(ids(tokenizer, "x")[0])
    written = ids(tokenizer, "x")
    brace = ids(tokenizer, "{")
    grammar.accept_token(brace[0])
    helper = grammar.try_jump_forward(tokenizer)
    assert helper == ([], '"näme": ')
    text, state = grammar.jump_forward_str_state(helper)
    new = ids(tokenizer, "x{" + text)
    assert new[1] != brace[0], "the tokenizer joins it with what follows"
    grammar.jump_and_retokenize(written + brace, new, state)
    assert finite(grammar) == sorted(ids(tokenizer, "0123456789"))
    with pytest.raises(ValueError, match="not allowed"):
        grammar.jump_and_retokenize(new, [*new, written[0]], state)
    inside = backend.dispatch_regex("(ä|à)x")
    inside.accept_token(ids(tokenizer, "ä")[0])
    assert inside.try_jump_forward(tokenizer) is None, "half a character is no text yet"
    alone = backend.dispatch_regex("äx")
    alone.accept_token(ids(tokenizer, "ä")[0])
    assert alone.try_jump_forward(tokenizer) is None, "nor is its second half"


def test_what_cannot_be_compiled_becomes_an_invalid_grammar(adapter: Any, backend: Any) -> None:
    for kind, source in (
        ("json", '{"uniqueItems": true}'),
        ("regex", "("),
        ("ebnf", "root ::= root"),
        ("json", "{"),
    ):
        found = getattr(backend, f"dispatch_{kind}")(source)
        assert type(found) is adapter.InvalidGrammarObject
    assert type(backend.dispatch_structural_tag("{")) is adapter.InvalidGrammarObject


def test_options_of_the_server(adapter: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def after_brace(**options: Any) -> bool:
        monkeypatch.setattr(adapter, "get_serving", lambda: serving(**options))
        grammar = adapter.create(None, tokenizer, SIZE, None).dispatch_json('{"type": "object"}')
        for token in ids(tokenizer, "{ "):
            if token not in finite(grammar):
                return False
            grammar.accept_token(token)
        return ids(tokenizer, " ")[0] in finite(grammar)

    assert after_brace()
    assert not after_brace(constrained_json_disable_any_whitespace=True)
    assert not after_brace(constrained_json_max_whitespace_cnt=1)
    with pytest.raises(ConstrainError, match="whitespace-pattern is not supported: use"):
        after_brace(constrained_json_whitespace_pattern=" ?")


def test_the_models_end_tokens_come_before_the_tokenizers(
    adapter: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "get_serving", serving)
    ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<eot>")}
    grammar = adapter.create(None, tokenizer, SIZE, ends).dispatch_regex("")
    assert finite(grammar) == sorted(ends)


def test_a_reasoning_parser_wraps_the_backend(
    adapter: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "get_serving", lambda: serving(reasoning_parser="r1"))
    assert type(adapter.create(None, tokenizer, SIZE, None)) is adapter.ReasonerGrammarBackend


def test_plugging_in(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    choices: list[str] = ["xgrammar"]
    registered = {}
    monkeypatch.setattr(adapter, "add_grammar_backend_choices", choices.extend)
    monkeypatch.setattr(adapter, "register_grammar_backend", registered.__setitem__)
    adapter.plug_in()
    assert choices == ["xgrammar", "sgl-constrain"] and registered == {"sgl-constrain": adapter.create}


@pytest.mark.parametrize("adapter", ["wheel"], indirect=True)
def test_the_engines_own_classes(adapter: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base = importlib.import_module(BASE)
    monkeypatch.setattr(adapter, "get_serving", serving)
    monkeypatch.setattr(base, "get_serving", serving)
    adapter.plug_in()
    backend = base.create_grammar_backend(None, tokenizer, SIZE, {tokenizer.eos_token_id})
    assert type(backend) is adapter.ConstrainBackend
    key = ("regex", "abc?")
    future, hit = backend.get_cached_or_future_value(key, False)
    grammar = future.result(timeout=60)
    assert not hit and not grammar.finished and grammar.current_token is None
    backend.set_cache(key, grammar.copy())
    a, b, _ = ids(tokenizer, "abc")
    grammar.accept_token(a)
    again, hit = backend.get_cached_or_future_value(key, False)
    assert hit and finite(again) == [a] and finite(grammar) == [b]
    rows = [base.GrammarRow(row=0, grammar=grammar), base.GrammarRow(row=2, grammar=again)]
    mask = again.allocate_vocab_mask(vocab_size=SIZE, batch_size=3, device="cpu")
    again.fill_vocab_mask_batched(rows, mask)
    logits = torch.zeros(3, SIZE)
    base.GrammarMask(again, mask).apply(logits)
    assert [torch.isfinite(row).nonzero().flatten().tolist() for row in logits[[0, 2]]] == [[b], [a]]
    assert torch.isfinite(logits[1]).all()
    assert type(backend._init_value_dispatch(("ebnf", "x"), False)) is base.InvalidGrammarObject
    grammar.finished = True
    assert grammar.finished


@pytest.mark.parametrize("adapter", ["wheel"], indirect=True)
def test_the_engines_own_wrapper_leaves_reasoning_free(
    adapter: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "get_serving", lambda: serving(reasoning_parser="r1"))
    backend = adapter.create(None, tokenizer, SIZE, None)
    grammar = backend._init_value_dispatch(("regex", "ab"), True)
    a, b = ids(tokenizer, "ab")
    mask = grammar.allocate_vocab_mask(SIZE, 1, "cpu")
    for token in (b, b, tokenizer.convert_tokens_to_ids("</think>")):
        grammar.fill_vocab_mask(mask, 0)
        assert (mask == -1).all(), "reasoning is free"
        grammar.accept_token(token)
    grammar.fill_vocab_mask(mask, 0)
    logits = torch.zeros(1, SIZE)
    grammar.apply_vocab_mask(logits, mask)
    assert torch.isfinite(logits[0]).nonzero().flatten().tolist() == [a]
    grammar.accept_token(a)
    grammar.accept_token(b)
    grammar.accept_token(tokenizer.eos_token_id)
    assert grammar.is_terminated()
