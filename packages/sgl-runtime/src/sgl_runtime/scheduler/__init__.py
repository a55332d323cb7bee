# SPDX-License-Identifier: Apache-2.0
"""Which request computes how many tokens in the next pass, and what its result means.

Plain Python and numpy. Obeyed by the runner, which it does not import: both know `messages` alone.
"""
