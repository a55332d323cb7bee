# SPDX-License-Identifier: Apache-2.0
"""From a `Batch` to a `Result`: load a model, keep its KV pool, run it, choose tokens.

Obeys the scheduler and does not import it; both know `messages` alone.
"""
