# SPDX-License-Identifier: Apache-2.0
"""Which tokens may come next: constrained decoding for any engine.

compiler = Compiler(Vocabulary(tokens, eos=[2]))
matcher = Matcher(compiler.regex(r"[0-9]{4}-[0-9]{2}"))
matcher.fill_bitmask(bitmask, row=0)
matcher.accept_token(token)
"""

from sgl_constrain.compiler import Compiler
from sgl_constrain.errors import (
    ConstrainError,
    GrammarTooLarge,
    InvalidGrammar,
    InvalidPattern,
    InvalidSchema,
    InvalidVocabulary,
    UnsupportedPattern,
    UnsupportedSchema,
)
from sgl_constrain.grammar import Grammar
from sgl_constrain.limits import Limits
from sgl_constrain.matcher import Jump, Matcher, allocate_bitmask, apply_bitmask, fill_bitmask_batch
from sgl_constrain.states import DEAD, DONE
from sgl_constrain.twin import native
from sgl_constrain.vocabulary import Vocabulary

__all__ = [
    "Vocabulary",
    "Compiler",
    "Limits",
    "Grammar",
    "DEAD",
    "DONE",
    "Matcher",
    "Jump",
    "allocate_bitmask",
    "fill_bitmask_batch",
    "apply_bitmask",
    "native",
    "ConstrainError",
    "InvalidPattern",
    "UnsupportedPattern",
    "InvalidSchema",
    "UnsupportedSchema",
    "InvalidGrammar",
    "InvalidVocabulary",
    "GrammarTooLarge",
]
