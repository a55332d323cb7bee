# SPDX-License-Identifier: Apache-2.0
"""A checkpoint in a format that is not there is refused by the format's name."""

from __future__ import annotations

import pytest

from sgl_runtime.errors import ConfigError
from sgl_runtime.quantization import resolve


def test_no_quantization_config_is_unquantized() -> None:
    assert resolve({}).name == resolve({"quantization_config": None}).name == "unquantized"


@pytest.mark.parametrize("settings", [{"quant_method": "awq", "bits": 4}, {"bits": 4}, "int4"])
def test_a_format_that_is_not_there_is_refused(settings: object) -> None:
    with pytest.raises(ConfigError, match=r"quant_method '(awq|unnamed|int4)' is not supported"):
        resolve({"quantization_config": settings})
