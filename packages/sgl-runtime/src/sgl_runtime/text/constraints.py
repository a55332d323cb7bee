# SPDX-License-Identifier: Apache-2.0
"""A request's `Constraint` -> a grammar of sgl-constrain.

Both sides compile. The api process does it over bare bytes, to refuse what cannot be enforced before anything
is sent: whether a grammar compiles does not depend on the tokens. A replica does it over the tokens of its
model, for masks.
"""

from __future__ import annotations

from collections.abc import Collection

from sgl_constrain import Compiler, Grammar, Limits, Vocabulary
from sgl_constrain.gbnf import is_gbnf

from sgl_runtime.messages import Constraint
from sgl_runtime.text.tokenizer import Tokenizer

# A grammar that needs more than this is refused, or ends its request. It compiles on a thread of its own, but
# its masks are made between two steps of the model.
LIMITS = Limits(seconds=5.0, step_seconds=0.5, states=100_000, mask_bytes=64 << 20)


def compile_constraint(compiler: Compiler, constraint: Constraint) -> Grammar:
    """Raises ConstrainError, whose text is for the person who wrote the constraint."""
    match constraint.kind:
        case "regex":
            return compiler.regex(constraint.text)
        case "json_schema":
            return compiler.json_schema(constraint.text)
        case "ebnf":
            notation = compiler.gbnf if is_gbnf(constraint.text) else compiler.lark
            return notation(constraint.text)


def byte_compiler() -> Compiler:
    """Says what can be compiled; keeps nothing."""
    return Compiler(Vocabulary([bytes([byte]) for byte in range(256)], eos=()), cache_bytes=0, limits=LIMITS)


def token_compiler(tokenizer: Tokenizer, *, eos: Collection[int], vocab_size: int) -> Compiler:
    """Of a model with `vocab_size` ids, as many as its tokenizer has or more; keeps nothing."""
    tokens = [b"" if token in tokenizer.special else data for token, data in enumerate(tokenizer.vocabulary)]
    vocabulary = Vocabulary(tokens[:vocab_size], eos=eos, size=vocab_size)
    return Compiler(vocabulary, cache_bytes=0, limits=LIMITS)
