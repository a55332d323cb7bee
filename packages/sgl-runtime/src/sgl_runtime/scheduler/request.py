# SPDX-License-Identifier: Apache-2.0
"""`Request`: one `Generate` on its way through the scheduler.

What belongs to it wherever it is: its tokens, when it stops, what it has pinned. The two numbers of the one
rule, `computed` and `length`, exist while it is in a row and stand in the `Table`; a request without a row
has computed nothing. Ideas of policy or memory do not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sgl_runtime.cache.prefix import Node
from sgl_runtime.messages import I32, Aborted, Finish, Generate, Sampling
from sgl_runtime.scheduler.bias import Bias
from sgl_runtime.scheduler.constraint import Constrained
from sgl_runtime.scheduler.scores import PromptScores
from sgl_runtime.scheduler.stop import Stop

_WAITING = -1


@dataclass(slots=True, eq=False)
class Request:
    """Slots of a running request, by position in its row:

    0 ............ shared ............ computed ...... length
    in the cache,  its own             not computed yet
    pinned by it

    and in `spare`, its own slots for positions below `shared` that the cache has in other slots, because
    another request was quicker to compute the same tokens. Passes in flight may still read them.
    """

    rid: str
    prompt: I32
    sampling: Sampling
    stop: Stop
    bias: Bias
    top: int  # log-probabilities beside each output token; -1: not even its own
    scores: PromptScores | None  # log-probabilities of the prompt, until they are delivered
    arrival: int  # distinct, ascending
    overdue_at: int  # once this many requests have been admitted, it goes before younger ones
    lot: float  # its place in a random order
    came_at: float  # time.monotonic; decides nothing
    every: int = 1  # output tokens that are worth telling its sender of
    constrained: Constrained | None = None  # from when its grammar is ready
    output: list[int] = field(default_factory=list)  # while it runs, as far as `Table.sync` has brought it
    told: int = 0  # output tokens that its sender knows of; those of a constraint are counted there
    row: int = _WAITING
    pin: Node | None = None
    shared: int = 0
    same: int = 0  # of the shared tokens, so many leading ones are in the slots that the cache has for them
    spare: list[I32] = field(default_factory=list)
    cached: int | None = None  # prompt tokens found in the cache when it was first admitted
    finish: Finish | None = None

    @property
    def samples(self) -> bool:
        return self.stop.limit > 0

    @property
    def running(self) -> bool:
        return self.row != _WAITING

    @property
    def known(self) -> int:
        """Tokens of prompt and output so far."""
        return len(self.prompt) + len(self.output)

    def tokens(self) -> I32:
        """Prompt and output so far, [known]; not to be written to."""
        if not self.output:
            return self.prompt
        return np.concatenate((self.prompt, np.array(self.output, np.int32)))

    def news(self) -> tuple[list[int], int]:
        """Output tokens that its sender has not been told yet, and how many of them were forced."""
        if self.constrained is not None:
            return self.constrained.news(self.output)
        tokens, self.told = self.output[self.told :], len(self.output)
        return tokens, 0

    @property
    def watched(self) -> bool:
        """Every token it samples is looked at alone: it may end it, or has its log-probability beside it."""
        return self.stop.watches or self.top >= 0

    def matchable(self) -> int:
        """How many leading tokens may come from the prefix cache.

        The last one must be computed to sample from it, and so must every position whose log-probability is
        asked for and not known yet.
        """
        most = self.known - 1 if self.samples else self.known
        return most if self.scores is None else min(most, self.scores.wanted)

    @property
    def certain(self) -> int:
        """Output tokens that it cannot end before."""
        if self.stop.by_length_alone:
            return self.stop.limit
        # min_new_tokens forbids tokens that end the output; a stop string may still be spelled, and a
        # grammar come to its end.
        if self.sampling.stop or self.sampling.constraint is not None:
            return 0
        return min(self.stop.limit, self.sampling.min_new_tokens)

    @property
    def penalised(self) -> bool:
        sampling = self.sampling
        return (
            sampling.frequency_penalty != 0.0
            or sampling.presence_penalty != 0.0
            or sampling.repetition_penalty != 1.0
        )

    def leave_row(self) -> None:
        self.row = _WAITING
        self.pin = None
        self.shared = self.same = 0
        self.spare.clear()


def refusal(
    message: Generate, slots: int, context_length: int, *, has_vocabulary: bool, has_grammars: bool
) -> Aborted | None:
    """Why this request can never be computed here; None if it can.

    The engine refuses such requests before they are sent. This is the scheduler's own guard: what passes it
    can be admitted whenever nothing else runs.
    """
    prompt = len(message.tokens)
    most = context_length - 1 if message.sampling.max_new_tokens else context_length
    if prompt > most:
        return Aborted(
            f"the prompt has {prompt} tokens and the context length is {context_length}, of which at most "
            f"{most} can be prompt: shorten the prompt, or start the server with a larger --context-length"
        )
    if prompt > slots:
        return Aborted(_out_of_memory(prompt, slots))
    if message.sampling.stop and not has_vocabulary:
        return Aborted("stop strings need a tokenizer, which this server runs without: use stop_token_ids")
    if message.sampling.constraint is not None and not has_grammars:
        return Aborted(
            "constraints on the text need a tokenizer, which this server runs without", invalid=True
        )
    return None


def out_of_memory(request: Request, needed: int, slots: int) -> Aborted:
    """The end of a request that has the whole KV memory to itself and needs more."""
    return Aborted(f"{_out_of_memory(needed, slots)}; {len(request.output)} tokens had been generated")


def _out_of_memory(needed: int, slots: int) -> str:
    return (
        f"the request needs at least {needed} tokens of KV memory and the server has {slots}: ask for fewer "
        "(max_new_tokens), shorten the prompt, or start the server with more (--mem-fraction-static, "
        "--max-total-tokens)"
    )
