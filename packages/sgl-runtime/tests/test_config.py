# SPDX-License-Identifier: Apache-2.0
"""The command line says what SURFACE promises: names, aliases, defaults; and refuses what cannot be."""

from __future__ import annotations

import argparse

import msgspec
import pytest

from sgl_runtime.config import ServeConfig, add_flags, bound_caches, config_from
from sgl_runtime.errors import ConfigError


def parse(*arguments: str) -> ServeConfig:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser)
    return config_from(vars(parser.parse_args(arguments)))


def test_no_arguments_give_the_struct_s_defaults() -> None:
    assert parse() == ServeConfig()


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (["--tp", "2"], "tensor_parallel_size", 2),
        (["--tp-size", "2"], "tensor_parallel_size", 2),
        (["--tensor-parallel-size", "2"], "tensor_parallel_size", 2),
        (["--dp", "3"], "data_parallel_size", 3),
        (["--model", "x"], "model_path", "x"),
        (["--model-path", "x"], "model_path", "x"),
        (["--mem-frac", "0.7"], "mem_fraction_static", 0.7),
        (["--mem-fraction-static", "0.7"], "mem_fraction_static", 0.7),
        (["--max-total-token", "100"], "max_total_tokens", 100),
        (["--disable-radix"], "disable_radix_cache", True),
        (["--file-storage-pth", "x"], "file_storage_path", "x"),
        (["--file-storage-path", "x"], "file_storage_path", "x"),
        (["--chunked-prefill-size", "4096"], "chunked_prefill_size", 4096),
        (["--schedule-policy", "dfs-weight"], "schedule_policy", "dfs-weight"),
    ],
)
def test_spellings(arguments: list[str], field: str, value: object) -> None:
    assert getattr(parse(*arguments), field) == value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "65536"], "--port"),
        (["--mem-fraction-static", "1.5"], "--mem-fraction-static"),
        (["--mem-fraction-static", "nan"], "--mem-fraction-static"),
        (["--max-total-tokens", "0"], "--max-total-tokens"),
        (["--tp", "0"], "--tensor-parallel-size"),
        (["--schedule-conservativeness", "-1"], "--schedule-conservativeness"),
        (["--stream-interval", "0"], "--stream-interval"),
        (["--file-storage-path", ""], "--file-storage-path"),
        (["--max-batch-lines", "0"], "--max-batch-lines"),
        (["--max-queued-batches", "0"], "--max-queued-batches"),
        (["--max-file-storage", "0"], "--max-file-storage"),
        (["--skip-tokenizer-init", "--chat-template", "chatml"], "--chat-template"),
        (["--skip-tokenizer-init", "--tokenizer-path", "x"], "--tokenizer-path"),
        (["--schedule-conservativeness", "inf"], "--schedule-conservativeness"),
        (["--drain-timeout", "inf"], "--drain-timeout"),
        (["--random-seed", "-1"], "--random-seed"),
        (["--drain-timeout", "1e300"], "--drain-timeout"),
        (["--send-timeout", "inf"], "--send-timeout"),
        (["--uds", ""], "--uds is empty"),
        (["--served-model-name", ""], "--served-model-name is empty"),
    ],
)
def test_impossible_values_are_refused_by_flag(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(*arguments)


@pytest.mark.parametrize("arguments", [["--no-such-flag"], ["--tensor-par", "2"], ["--dtype", "int7"]])
def test_unknown_flags_and_abbreviations_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        parse(*arguments)
    assert exit.value.code == 2


def test_every_field_has_a_help_text_and_a_flag() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    help = parser.format_help()
    for field in msgspec.structs.fields(ServeConfig):
        assert "--" + field.name.replace("_", "-") in help


def test_an_empty_key_is_not_taken_for_none() -> None:
    with pytest.raises(ConfigError, match="--api-key is empty"):
        config_from({"api_key": ""})


def test_caches_of_shapes_are_bounded_unless_asked_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "7"}
    monkeypatch.setattr("os.environ", environment)
    bound_caches()
    assert environment.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY") == "7"
    assert list(environment) == ["LRU_CACHE_CAPACITY"] and 0 < int(environment["LRU_CACHE_CAPACITY"]) < 1024
