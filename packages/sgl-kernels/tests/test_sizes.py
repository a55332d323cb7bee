# SPDX-License-Identifier: Apache-2.0
"""Numbers for launches are those that arithmetic without bits gives."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import pytest

from sgl_kernels._triton.sizes import cdiv, next_power_of_2

NUMBERS = (*range(1, 70), 1023, 1024, 1025, (1 << 40) + 1)


@pytest.mark.parametrize("y", [1, 2, 3, 64, 1000])
def test_quotients_are_rounded_up(y: int) -> None:
    assert all(cdiv(x, y) == ceil(Fraction(x, y)) for x in (0, *NUMBERS))


def test_a_power_is_the_first_that_is_large_enough() -> None:
    powers = [2**exponent for exponent in range(50)]
    assert all(next_power_of_2(n) == next(power for power in powers if power >= n) for n in NUMBERS)
