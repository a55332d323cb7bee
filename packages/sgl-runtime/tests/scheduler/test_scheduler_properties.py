# SPDX-License-Identifier: Apache-2.0
"""The proof of the scheduler: whatever happens, every request is answered as if it were alone, and no slot is
lost."""

from __future__ import annotations

from hypothesis.stateful import run_state_machine_as_test
from serving_machine import CI, Serving


def test_every_answer_is_the_unscheduled_one_and_no_slot_is_lost() -> None:
    run_state_machine_as_test(Serving, settings=CI)
