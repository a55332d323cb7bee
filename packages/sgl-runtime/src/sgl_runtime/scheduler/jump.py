# SPDX-License-Identifier: Apache-2.0
"""Jumping forward: where a grammar leaves no choice, the text is appended instead of sampled.

Forced text is written in the tokens that the tokenizer would give it, but for those at its end that might
become others with the text behind it (`Matcher.jump_forward_tokens`). Tokens in front of it stay, though the
tokenizer might merge them with it: their senders have them, their keys and values are computed, and the model
chose them where it might have chosen longer ones. So a state of the grammar alone says what is appended.

Appending is all that a jump is. By the scheduler's one rule the tokens are computed in the next pass, all at
once, and the next one is sampled behind the last. Where that is not wanted, the same tokens are sampled one
by one, each under a mask that allows nothing else: a text does not depend on whether it jumps.
"""

from __future__ import annotations

from sgl_runtime.messages import Finish, StoppedByConstraint
from sgl_runtime.scheduler.constraint import Encode
from sgl_runtime.scheduler.request import Request


def follow(request: Request, encode: Encode, *, jump: bool) -> Finish | None:
    """Go on in the grammar behind the last token of the output, which was sampled and did not end it.

    Returns the end, if the text reaches one. Raises ConstrainError if the grammar grows beyond its limits.
    """
    assert request.constrained is not None, "only constrained requests follow a grammar"
    request.constrained.accept(request.output[-1])
    return look_ahead(request, encode, jump=jump)


def look_ahead(request: Request, encode: Encode, *, jump: bool) -> Finish | None:
    """Append what must follow, or, without `jump`, see to it that it is sampled. As `follow`."""
    constrained = request.constrained
    assert constrained is not None, "only constrained requests follow a grammar"
    choices = constrained.compiled.choices
    if constrained.ahead or constrained.matcher.state in choices:
        return None
    while tokens := _forced(request, encode):
        if not jump or request.top >= 0:  # a log-probability comes from the pass that samples the token
            constrained.ahead.extend(tokens)
            return None
        for token in tokens:
            request.output.append(token)
            constrained.accept(token, forced=True)
            finish = request.stop.check(token, len(request.output))
            if finish is not None:
                return finish
    if constrained.is_complete():
        return StoppedByConstraint()
    if not constrained.compiled.forced(constrained.matcher, encode):
        choices.add(constrained.matcher.state)
    return None


def _forced(request: Request, encode: Encode) -> tuple[int, ...]:
    """What must follow, up to a token that may end the output: whether it may come yet, the sampler knows."""
    constrained = request.constrained
    assert constrained is not None
    tokens = constrained.compiled.forced(constrained.matcher, encode)
    if request.stop.tokens.isdisjoint(tokens):
        return tokens
    return tokens[: next(i for i, token in enumerate(tokens) if token in request.stop.tokens)]
