# SPDX-License-Identifier: Apache-2.0
"""Jumping forward: where a grammar leaves no choice, the text is appended instead of sampled.

Forced text is written in the tokens that the tokenizer would give it (`Matcher.jump_forward_tokens`), read on
from the last tokens of the output. Those are never rewritten: their senders have them, their keys and values
are computed, and without jumps the model would go on from them, too. Where the tokenizer would merge them
with what follows, the forced text is encoded by itself.

Appending is all that a jump is. By the scheduler's one rule the tokens are computed in the next pass, all at
once, and the next one is sampled behind the last.
"""

from __future__ import annotations

from sgl_runtime.messages import Finish, StoppedByConstraint
from sgl_runtime.scheduler.constraint import Encode
from sgl_runtime.scheduler.request import Request

_TAIL = 3  # tokens of the output that the tokenizer sees before forced text


def follow(request: Request, encode: Encode | None) -> Finish | None:
    """The last token of the output was sampled and did not end it: go on in the grammar, and jump.

    Raises ConstrainError if the grammar grows beyond its limits.
    """
    assert request.constrained is not None, "only constrained requests follow a grammar"
    request.constrained.accept(request.output[-1])
    return jump(request, encode)


def jump(request: Request, encode: Encode | None) -> Finish | None:
    """Append what must follow, if there is an `encode` for it; the end, if the text reaches one.

    Raises ConstrainError if the grammar grows beyond its limits.
    """
    constrained = request.constrained
    assert constrained is not None, "only constrained requests follow a grammar"
    if encode is not None and request.top < 0:  # each token's log-probability comes from a pass of its own
        while tokens := _forced(request, encode):
            for token in tokens:
                request.output.append(token)
                constrained.accept(token, forced=True)
                finish = request.stop.check(token, len(request.output))
                if finish is not None:
                    return finish
    return StoppedByConstraint() if constrained.is_complete() else None


def _forced(request: Request, encode: Encode) -> tuple[int, ...]:
    """The tokens of the text that must follow, as far as they are certain."""
    constrained = request.constrained
    assert constrained is not None
    matcher, compiled = constrained.matcher, constrained.compiled
    tail = tuple(request.output[-_TAIL:])
    known = compiled.remembered(matcher.state, tail)
    if known is None:
        if not matcher.jump_forward_bytes():
            return ()
        found = matcher.jump_forward_tokens(encode, tail)
        known = matcher.jump_forward_tokens(encode).tokens if found.drop else found.tokens
        compiled.remember(matcher.state, tail, known)
    return known
