# SPDX-License-Identifier: Apache-2.0
"""The proof of the scheduler: whatever happens, every request is answered as if it were alone, and no slot is
lost."""

from __future__ import annotations

import pytest
from hypothesis.stateful import run_state_machine_as_test
from serving_machine import CI, Scarce, Serving


@pytest.mark.parametrize("machine", [Serving, Scarce])
def test_every_answer_is_the_unscheduled_one_and_no_slot_is_lost(machine: type[Serving]) -> None:
    run_state_machine_as_test(machine, settings=CI)
