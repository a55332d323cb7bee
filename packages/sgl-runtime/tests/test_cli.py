# SPDX-License-Identifier: Apache-2.0
"""The command line tells what to do instead of a flag that another server has."""

from __future__ import annotations

import pytest

from sgl_runtime import cli


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--trust-remote-code"], "no code of a checkpoint"),
        (["--quantization", "awq"], "a GGUF file"),
        (["--quantization=fp8"], "a GGUF file"),
        (["--nnodes", "2"], "one machine"),
        (["--max-num-reqs", "8"], "--max-running-requests"),
    ],
)
@pytest.mark.parametrize("command", [["serve"], ["bench", "latency"]])
def test_a_flag_of_sglang_that_is_not_here_is_refused_with_what_to_do(
    capsys: pytest.CaptureFixture[str], command: list[str], arguments: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as exit:
        cli.run([*command, *arguments])
    _, _, said = capsys.readouterr().err.partition("error: ")
    assert exit.value.code == 2
    assert said.startswith(f"unrecognized arguments: {' '.join(arguments)}; ") and told in said


def test_any_other_is_refused_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.run(["bench", "serving", "--nnodes", "2", "--no-such"])
    assert capsys.readouterr().err.endswith("error: unrecognized arguments: --nnodes 2 --no-such\n")
