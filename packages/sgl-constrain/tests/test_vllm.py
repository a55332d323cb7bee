# SPDX-License-Identifier: Apache-2.0
"""The backend for vLLM: its methods against the recorded interface, what it does, and, where vLLM's wheel is
at hand (see peer_modules), the engine's own manager of structured outputs driving it.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from sgl_constrain import ConstrainError, InvalidVocabulary

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

_spec = importlib.util.spec_from_file_location("peer_modules", Path(__file__).with_name("peer_modules.py"))
assert _spec is not None and _spec.loader is not None
peers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(peers)

INTERFACE = peers.interface("vllm")
TYPES = INTERFACE["modules"]["vllm.v1.structured_output.backend_types"]
REAL = {f"vllm.v1.structured_output{m}" for m in ("", ".backend_types", ".request", ".utils")} | {
    "vllm.exceptions"
}
SIZE = 300  # of the logits; the tokenizer has 260 tokens


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    characters = pre_tokenizers.ByteLevel.alphabet()
    pieces = {character: i for i, character in enumerate(sorted(characters))}
    found = tokenizers.Tokenizer(models.BPE(pieces, []))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens(["</s>", "<stop>"])
    found.add_tokens(["yes", "true"])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=found, eos_token="</s>")


def config(**options: Any) -> Any:
    plain = {"disable_any_whitespace": False, "disable_additional_properties": False}
    return SimpleNamespace(
        structured_outputs_config=SimpleNamespace(
            **plain | options, reasoning_parser="", reasoning_parser_plugin="", enable_in_reasoning=False
        ),
        parallel_config=SimpleNamespace(distributed_executor_backend="mp"),
        scheduler_config=SimpleNamespace(max_num_seqs=4),
        model_config=SimpleNamespace(
            skip_tokenizer_init=False, get_vocab_size=lambda: SIZE, is_diffusion=False, hf_config=None
        ),
        num_speculative_tokens=2,
        speculative_config=None,
    )


def asked(**fields: Any) -> Any:
    """The structured outputs of a request, with vLLM's names."""
    plain = dict.fromkeys(["json", "json_object", "regex", "choice", "grammar", "structural_tag"])
    return SimpleNamespace(**plain | fields, _backend="xgrammar")


@pytest.fixture(params=["recorded", "wheel"])
def adapter(request: pytest.FixtureRequest, tokenizer: Any) -> Iterator[Any]:
    if request.param == "recorded":
        with peers.recorded("vllm"):
            yield importlib.import_module("sgl_constrain.vllm")
        return
    if peers.wheel("vllm") is None:
        pytest.skip("no wheel of vLLM in SGL_PEERS")
    replaced = {
        "vllm.tokenizers:cached_tokenizer_from_config": lambda model_config: tokenizer,
        "vllm.utils.import_utils:LazyLoader": lambda name, scope, module: (
            importlib.import_module(module) if module == "torch" else peers.Anything()
        ),
    }
    with peers.of_wheel("vllm", REAL, replaced, missing={"cachetools", "regex"}):
        yield importlib.import_module("sgl_constrain.vllm")


@pytest.fixture
def backend(adapter: Any, tokenizer: Any) -> Any:
    return adapter.ConstrainBackend(config(), tokenizer=tokenizer, vocab_size=SIZE)


def ids(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer.encode(text)
    return found


def allowed(grammar: Any, backend: Any) -> list[int]:
    mask = backend.allocate_token_bitmask(3)
    grammar.fill_bitmask(mask, 1)
    assert (mask[0] == -1).all() and (mask[2] == -1).all()
    bits = np.unpackbits(mask[1].numpy().view(np.uint8), bitorder="little")
    return np.flatnonzero(bits).tolist()


def test_the_methods_are_those_of_the_recorded_version(adapter: Any) -> None:
    assert INTERFACE["version"].startswith("0.33."), "say in vllm.py and the README which version this is for"
    for ours, name in ((adapter.ConstrainGrammar, "Grammar"), (adapter.ConstrainBackend, "Backend")):
        theirs = TYPES[f"StructuredOutput{name}"]
        assert peers.differing(ours, theirs, inherited=ours.__base__) == {}
        assert not ours.__abstractmethods__
    assert TYPES["StructuredOutputBackend"]["fields"] == peers.parameters(adapter.ConstrainBackend)
    options = INTERFACE["modules"]["vllm.config.structured_outputs"]["StructuredOutputsConfig"]["fields"]
    assert set(vars(config().structured_outputs_config)) <= set(options)
    validator = INTERFACE["modules"]["vllm.v1.structured_output.backend_xgrammar"][
        "validate_xgrammar_grammar"
    ]
    assert validator["parameters"] == peers.parameters(adapter.validate)


TAG = {"structures": [{"begin": "<f>", "schema": {"type": "null"}, "end": "</f>"}], "triggers": ["<f"]}
KINDS = [
    ("JSON", '{"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": false}',
     ['{"a": null}', "{}"], ["[]", '{"b": 1}']),
    ("JSON_OBJECT", "", ['{"é": [1, {}]}'], ["[]", "1"]),
    ("REGEX", r"\d{2}-é+", ["12-é"], ["12-", "١-é"]),
    ("CHOICE", '["yes", "no way"]', ["yes", "no way"], ["no", ""]),
    ("GRAMMAR", '# GBNF\nroot ::= "(" root ")" | ""', ["(())", ""], ["(()"]),
    ("GRAMMAR", '// Lark\nstart: "(" start ")" | ', ["(())", ""], ["(()"]),
    ("STRUCTURAL_TAG", json.dumps(TAG), ["hi <f>null</f>", ""], ["<f>1</f>", "<f"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "source", "good", "bad"), KINDS)
def test_every_kind_of_grammar(
    adapter: Any, backend: Any, tokenizer: Any, kind: str, source: str, good: list[str], bad: list[str]
) -> None:
    options = adapter.StructuredOutputOptions
    assert {name for name, *_ in KINDS} == set(TYPES["StructuredOutputOptions"]["fields"])
    for text, expected in [(t, True) for t in good] + [(t, False) for t in bad]:
        grammar = backend.compile_grammar(options[kind], source)
        whole = [*ids(tokenizer, text), tokenizer.eos_token_id]
        assert (grammar.validate_tokens(whole) == whole) == expected, text
        for token in whole:
            mask = allowed(grammar, backend)
            assert max(mask) < len(tokenizer), "what the logits have beyond the tokenizer is never allowed"
            assert (token in mask) == grammar.accept_tokens("r", [token])
            if token not in mask:
                break
        assert grammar.is_terminated() == expected, text


def test_the_life_of_a_request(adapter: Any, backend: Any, tokenizer: Any) -> None:
    eos = tokenizer.eos_token_id
    grammar = backend.compile_grammar(adapter.StructuredOutputOptions.REGEX, "abc?", {eos})
    a, b, c = ids(tokenizer, "abc")
    assert grammar.validate_tokens([a, b, c, eos, a]) == [a, b, c, eos], "it ends with the text"
    assert grammar.validate_tokens([a, b, eos, eos]) == [a, b, eos]
    assert grammar.validate_tokens([a, c]) == [a] and grammar.validate_tokens([c]) == []
    assert grammar.validate_tokens([a, -1, b]) == [a], "padding of speculative decoding"
    assert grammar.validate_tokens([SIZE + 5]) == [] and not grammar.accept_tokens("r", [SIZE + 5])
    assert not grammar.accept_tokens("r", [a, c, b]), "the first is kept"
    assert allowed(grammar, backend) == [b]
    assert grammar.accept_tokens("r", [b]) and allowed(grammar, backend) == sorted([c, eos])
    assert grammar.accept_tokens("r", [eos, a, a]), "after the end nothing is looked at"
    assert grammar.is_terminated() and grammar.validate_tokens([a]) == []
    assert allowed(grammar, backend) == [eos]
    grammar.rollback(1)
    assert not grammar.is_terminated() and allowed(grammar, backend) == sorted([c, eos])
    grammar.rollback(2)
    assert allowed(grammar, backend) == [a]
    with pytest.raises(ValueError, match="1 of 0"):
        grammar.rollback(1)
    grammar.accept_tokens("r", [a, b])
    grammar.reset()
    assert allowed(grammar, backend) == [a]


def test_a_request_has_stop_tokens_of_its_own(adapter: Any, backend: Any, tokenizer: Any) -> None:
    eos, stop = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<stop>")
    yes, y = tokenizer.convert_tokens_to_ids("yes"), ids(tokenizer, "y")[0]
    regex = adapter.StructuredOutputOptions.REGEX
    grammar = backend.compile_grammar(regex, "(yes)+", {stop, 10**6})
    assert allowed(grammar, backend) == sorted([y, yes]) and not grammar.accept_tokens("r", [stop])
    grammar.accept_tokens("r", [yes])
    assert allowed(grammar, backend) == sorted([y, yes, stop]), "it takes the place of the tokenizer's"
    assert not grammar.accept_tokens("r", [eos])
    assert grammar.accept_tokens("r", [stop]) and grammar.is_terminated()
    assert allowed(grammar, backend) == [stop]
    text = backend.compile_grammar(regex, "(yes)+", {eos, yes})
    assert allowed(text, backend) == [y], "a stop token that is text is kept for the end"
    text.accept_tokens("r", ids(tokenizer, "y") + ids(tokenizer, "e") + ids(tokenizer, "s"))
    assert allowed(text, backend) == sorted([y, yes, eos])
    assert text.accept_tokens("r", [yes]) and text.is_terminated()


def test_whitespace_may_be_disabled(adapter: Any, tokenizer: Any) -> None:
    backend = adapter.ConstrainBackend(config(disable_any_whitespace=True), tokenizer, SIZE)
    for kind, source in (
        ("JSON", '{"type": "object"}'),
        ("JSON_OBJECT", ""),
        ("STRUCTURAL_TAG", json.dumps(TAG)),
    ):
        prefix = "<f>" if kind == "STRUCTURAL_TAG" else "{"
        grammar = backend.compile_grammar(adapter.StructuredOutputOptions[kind], source)
        assert grammar.accept_tokens("r", ids(tokenizer, prefix))
        assert not grammar.accept_tokens("r", ids(tokenizer, " "))
    backend.destroy()


def test_what_is_refused(adapter: Any, backend: Any, tokenizer: Any) -> None:
    options = adapter.StructuredOutputOptions
    with pytest.raises(ConstrainError, match="disable_additional_properties is not supported"):
        adapter.ConstrainBackend(config(disable_additional_properties=True), tokenizer, SIZE)
    with pytest.raises(InvalidVocabulary, match="neither a path nor a"):
        adapter.ConstrainBackend(config(), object(), SIZE)
    for kind, source in (
        (options.REGEX, "("),
        (options.JSON, "{"),
        (options.GRAMMAR, "a"),
        (options.CHOICE, "[]"),
    ):
        with pytest.raises(ConstrainError):
            backend.compile_grammar(kind, source)
    for source in ("[", '"yes"', '["yes", 1]'):
        with pytest.raises(ConstrainError, match="choice: a JSON list of strings"):
            backend.compile_grammar(options.CHOICE, source)
    with pytest.raises(ConstrainError, match="of the kind"):
        backend.compile_grammar("poem", "")


def test_a_tokenizer_may_have_more_tokens_than_the_logits(adapter: Any, tokenizer: Any) -> None:
    backend = adapter.ConstrainBackend(config(), tokenizer, 100)
    assert backend.allocate_token_bitmask(2).shape == (2, (len(tokenizer) + 31) // 32)
    backend = adapter.ConstrainBackend(config(), tokenizer, SIZE)
    assert backend.allocate_token_bitmask(2).shape == (2, (SIZE + 31) // 32)


def test_requests_are_judged_before_they_are_queued(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    error = importlib.import_module("vllm.exceptions").VLLMValidationError
    key = (adapter.StructuredOutputOptions.REGEX, "(a")
    monkeypatch.setattr(adapter, "get_structured_output_key", lambda params: key)
    with pytest.raises(error, match="missing"):
        adapter.validate(SimpleNamespace(structured_outputs=asked(regex="(a")))
    key = (adapter.StructuredOutputOptions.REGEX, "a")
    adapter.validate(SimpleNamespace(structured_outputs=asked(regex="a")))
    adapter.validate(SimpleNamespace(structured_outputs=None))


def test_plugging_in(adapter: Any) -> None:
    adapter.plug_in()
    assert importlib.import_module("vllm.v1.structured_output").XgrammarBackend is adapter.ConstrainBackend
    module = importlib.import_module("vllm.v1.structured_output.backend_xgrammar")
    assert module.validate_xgrammar_grammar is adapter.validate


@pytest.mark.parametrize("adapter", ["wheel"], indirect=True)
def test_the_engines_own_manager(adapter: Any, tokenizer: Any) -> None:
    adapter.plug_in()
    manager = importlib.import_module("vllm.v1.structured_output").StructuredOutputManager(config())
    requests_of = importlib.import_module("vllm.v1.structured_output.request").StructuredOutputRequest
    a, b, c, d = ids(tokenizer, "abcd")
    eos = tokenizer.eos_token_id
    requests = {}
    for name, params in (
        ("x", asked(regex="ab+c?")),
        ("y", asked(choice=["abc", "d"])),
        ("z", asked(regex="(")),
    ):
        sampling = SimpleNamespace(structured_outputs=params, all_stop_token_ids={eos})
        requests[name] = SimpleNamespace(
            request_id=name,
            sampling_params=sampling,
            structured_output_request=requests_of(params=params),
            use_structured_output=True,
            prompt_token_ids=[1],
            all_token_ids=[1],
        )
        manager.grammar_init(requests[name])
    manager.executor.shutdown(wait=True)
    assert all(request.structured_output_request.is_grammar_ready for request in requests.values())
    assert isinstance(requests["z"].structured_output_request.grammar, ConstrainError)

    def rows(scheduled: dict[str, list[int]]) -> list[list[int]]:
        mask = manager.grammar_bitmask(requests, ["x", "y"], scheduled)
        bits = np.unpackbits(mask.view(np.uint8), axis=-1, bitorder="little")
        return [np.flatnonzero(row).tolist() for row in bits]

    every = list(range(len(rows({})[1])))
    assert rows({"x": [a, b], "y": [d, -1]}) == [
        [a], [b], sorted([b, c, eos]),  # after each token of a draft, which is taken back
        [a, d], [eos], every,  # after padding nothing is constrained
    ]  # fmt: skip
    assert manager.validate_tokens(requests["x"], [a, c, b]) == [a]
    assert manager.accept_tokens(requests["x"], [a, b]) and not manager.accept_tokens(requests["y"], [b])
    assert rows({"x": [c, eos]})[:3] == [sorted([b, c, eos]), [eos], every]
    assert manager.accept_tokens(requests["x"], [eos])
    assert requests["x"].structured_output_request.grammar.is_terminated()
    manager.clear_backend()
