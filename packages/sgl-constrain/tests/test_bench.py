# SPDX-License-Identifier: Apache-2.0
"""The benchmark's cases are what they say, judged by jsonschema and `re`; and it measures what it says."""

from __future__ import annotations

import datetime
import json
import re
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

import jsonschema
import pytest

from sgl_constrain import Compiler, Grammar
from sgl_constrain.bench import engines, measuring, report, running
from sgl_constrain.bench.__main__ import main
from sgl_constrain.bench.cases import Case, cases, select
from sgl_constrain.bench.engines import Refused
from sgl_constrain.bench.tokenizers import Tokenizer
from sgl_constrain.sources import byte_characters

Accepts = Callable[[Grammar, str], bool]


def _date_time(text: str) -> bool:
    return "T" in text and bool(datetime.datetime.fromisoformat(text))


def _clock(text: str) -> str:
    return datetime.time.fromisoformat(text).isoformat()


def _uri(text: str) -> bool:
    return re.fullmatch(r"[a-z][a-z0-9+.-]*:[^\s\"<>\\^`{|}]*", text) is not None


@pytest.fixture(scope="module")
def formats() -> jsonschema.FormatChecker:
    """jsonschema's own, and those for which it wants packages. A format says nothing about other values."""
    checker = jsonschema.FormatChecker()
    checker.checks("date-time", ValueError)(lambda value: not isinstance(value, str) or _date_time(value))
    checker.checks("time", ValueError)(lambda value: not isinstance(value, str) or bool(_clock(value)))
    checker.checks("uri")(lambda value: not isinstance(value, str) or _uri(value))
    return checker


def by_kind(kind: str) -> list[Case]:
    return [case for case in cases() if case.kind == kind]


def test_there_are_enough_and_each_has_a_name() -> None:
    assert len(by_kind("schema")) >= 40 and len(by_kind("regex")) >= 50
    assert len({(case.kind, case.name) for case in cases()}) == len(cases())
    assert all(case.valid for case in cases())


@pytest.mark.parametrize("case", by_kind("schema"), ids=lambda case: case.name)
def test_schemas(case: Case, formats: jsonschema.FormatChecker, compiler: Compiler, accepts: Accepts) -> None:
    schema = json.loads(case.source, parse_float=Decimal)
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    kind.check_schema(json.loads(case.source))
    judge = kind(schema, format_checker=formats)
    grammar = compiler.json_schema(case.source)
    for text in case.valid:
        assert judge.is_valid(json.loads(text, parse_float=Decimal)), text
        assert accepts(grammar, text), text
    for text in case.invalid:
        assert not judge.is_valid(json.loads(text, parse_float=Decimal)), text
        assert not accepts(grammar, text), text


@pytest.mark.parametrize("case", by_kind("regex"), ids=lambda case: case.name)
def test_patterns(case: Case, compiler: Compiler, accepts: Accepts) -> None:
    grammar = compiler.regex(case.source)
    for text in case.valid:
        assert re.fullmatch(case.source, text) and accepts(grammar, text), text
    for text in case.invalid:
        assert not re.fullmatch(case.source, text) and not accepts(grammar, text), text


def byte_tokenizer() -> Tokenizer:
    """One token a byte, and one that ends a text."""
    tokens = [bytes((byte,)) for byte in range(256)] + [b""]
    return Tokenizer("bytes", tokens, (256,), list)


@pytest.mark.parametrize("name", list(engines.ENGINES))
def test_every_engine_takes_a_text_and_refuses_another(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if engines.installed(name) is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.setattr(
        engines.ENGINE, "module", engines.ENGINE.module
    )  # the benchmark chooses for a process
    engine, tokenizer = engines.make(name, byte_tokenizer()), byte_tokenizer()
    case = Case("regex", "date", r"\d{4}-\d{2}", ("2026-11", "2026-1"), ("2026/11", "2026-11-", "1999-12"))
    measured, grammar = measuring.measure_first(engine, case, time.perf_counter)
    assert measured.outcome == "ok" and measured.first > 0 and grammar is not None
    deadline = time.perf_counter() + 60
    measuring.measure_valid(engine, tokenizer, grammar, case, measured, deadline, time.perf_counter)
    measuring.measure_invalid(engine, tokenizer, grammar, case, measured, deadline, time.perf_counter)
    assert (measured.valid_refused, measured.invalid_accepted, measured.cut) == (1, 1, False)
    assert len(measured.cold) == 7 + 6 and len(measured.warm) == 8 + 7
    assert len(measured.accept) == measuring.PASSES * (7 + 6)
    with pytest.raises(Refused):
        engine.compile("regex", "(a")


def test_a_table_says_what_was_measured() -> None:
    chosen = select(["person", "date"])
    found = [
        measuring.Measured("ok", first=0.001, cold=[2e-6, 4e-6], warm=[1e-6], accept=[1e-6], memory=2**21),
        *[measuring.Measured("refused", "no")] * (len(chosen) - 1),
    ]
    run = running.Run("sgl", "1", measuring.Loaded(1.5, 2**20), found)
    text = report.markdown([run], chosen)
    assert "| sgl 1 | 1 | 0 | 0 | 1 / 1 / 1 | 3 / 4 / 4 / 4 | 1 / 1 | 1 | 2 / 2 | 1.5 / 1 | 0 | 0 |" in text
    assert "| schema: person | 1 / 4 / 1 |" in report.each([run], chosen)
    assert report.values([run], chosen)["sgl"]["cases"]["schema: person"]["memory"] == 2**21


def test_percentiles_count_up() -> None:
    values: Sequence[float] = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [report.quantile(values, share) for share in (0, 0.5, 0.9, 1)] == [1, 3, 5, 5]


@pytest.fixture
def small_tokenizer(tmp_path: Path) -> Path:
    """A tokenizer.json of single bytes, with the end of a text named beside it."""
    tokenizers = pytest.importorskip("tokenizers")
    pieces = byte_characters()
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=pieces, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(["<end>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 256}')
    return tmp_path / "tokenizer.json"


def test_the_command_measures_in_a_process_of_its_own(
    small_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    words = [
        "--engines",
        "sgl",
        "--vocabulary",
        str(small_tokenizer),
        "--cases",
        "person",
        "--json",
        str(figures),
    ]
    monkeypatch.setattr("sys.argv", ["bench", *words])
    main()
    assert "257 tokens" in capsys.readouterr().out
    measured = json.loads(figures.read_text())["sgl"]["cases"]["schema: person"]
    assert measured["outcome"] == "ok" and measured["valid_refused"] == measured["invalid_accepted"] == 0
    (case,) = select(["person"])
    assert len(measured["warm"]) == sum(len(text.encode()) + 1 for text in case.valid)


def test_a_case_that_takes_too_long_costs_only_itself(small_tokenizer: Path) -> None:
    chosen = select(["person", "date"])[:2]
    said: list[str] = []
    result = running.run("sgl", "1", str(small_tokenizer), chosen, limit=0.0, time_of="cpu", say=said.append)
    assert [one.outcome for one in result.measured] == ["slow", "slow"] and len(said) == 2


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--vocabulary", "nowhere.json"], "nowhere.json"),
        (["--cases", "nothing-like-this"], "nothing-like-this"),
    ],
)
def test_what_is_asked_for_and_not_there_is_named(
    words: list[str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", *words])
    with pytest.raises(SystemExit, match=named):
        main()


def test_an_engine_that_is_not_installed_is_named(
    small_tokenizer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = engines.ENGINES["llguidance"]._replace(package="there-is-no-such-package")
    monkeypatch.setitem(engines.ENGINES, "llguidance", missing)
    words = ["--engines", "llguidance", "--vocabulary", str(small_tokenizer), "--cases", "person"]
    monkeypatch.setattr("sys.argv", ["bench", *words])
    main()
    assert "not installed: llguidance" in capsys.readouterr().out
