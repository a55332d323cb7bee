# SPDX-License-Identifier: Apache-2.0
"""`@function` makes a `Program` of a function whose first parameter is the state `s`.

Running it means: a state, the function's body in the caller's thread (streaming: in one of its own), and all
that it appends carried out. No thread outlives the run.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sgl_lang.backends.protocol import Backend
from sgl_lang.default import default_backend
from sgl_lang.errors import ProgramError
from sgl_lang.executor import Executor
from sgl_lang.sampling import SamplingParams, strings
from sgl_lang.state import State


class Program:
    """A function on a state, made by `@function`. Programs are values; running one changes nothing in it."""

    def __init__(self, func: Callable[..., Any], bound: Mapping[str, Any]) -> None:
        functools.update_wrapper(self, func)
        self.name = getattr(func, "__name__", type(func).__name__)
        self._func = func
        self._bound = dict(bound)

    def bind(self, **kwargs: Any) -> Program:
        """The same program with these arguments given. ProgramError for a name that is no parameter."""
        bound = {**self._bound, **kwargs}
        self._check(inspect.signature(self._func).bind_partial, None, **bound)
        return Program(self._func, bound)

    def __call__(self, s: State | None = None, /, *args: Any, **kwargs: Any) -> Any:
        """Go through this program as a part of another one, on that one's state; returns what it returns."""
        if not isinstance(s, State):
            raise ProgramError(
                f"{self.name}(s, ...) continues a program from its state s; to run it, {self.name}.run(...)"
            )
        return self._func(s, *args, **{**self._bound, **kwargs})

    def run(
        self,
        *args: Any,
        max_new_tokens: int = 128,
        min_new_tokens: int | None = None,
        stop: str | Iterable[str] = (),
        stop_token_ids: Iterable[int] = (),
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = -1,
        min_p: float | None = None,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        repetition_penalty: float | None = None,
        ignore_eos: bool = False,
        seed: int | None = None,
        return_logprob: bool | None = None,
        logprob_start_len: int | None = None,
        top_logprobs_num: int | None = None,
        return_text_in_logprobs: bool | None = None,
        stream: bool = False,
        backend: Backend | None = None,
        **kwargs: Any,
    ) -> State:
        """Run the program and return its state.

        Args:
            args, kwargs: the function's arguments after `s`.
            max_new_tokens, ...: sampling parameters of every `gen` that does not set its own; see `gen`.
            stream: return at once and let the program run on; read with `text_iter()` what it says. It lives
                only as long as the process.
            backend: what to run on; the default is the one of `set_default_backend`.

        Raises what the function raises, and ProgramError without a backend or with arguments that the
        function does not take. A failed generation does not raise here but where it is read; see `error()`.
        """
        defaults = SamplingParams(
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            stop=strings(stop),
            stop_token_ids=tuple(stop_token_ids),
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty,
            repetition_penalty=repetition_penalty,
            ignore_eos=ignore_eos,
            seed=seed,
            return_logprob=return_logprob,
            logprob_start_len=logprob_start_len,
            top_logprobs_num=top_logprobs_num,
            return_text_in_logprobs=return_text_in_logprobs,
        )
        chosen = default_backend() if backend is None else backend
        executor = Executor(chosen, defaults, stream=stream, name=self.name)
        call = self._check(
            inspect.signature(self._func).bind,
            State(executor, inside=True),
            *args,
            **{**self._bound, **kwargs},
        )
        body = functools.partial(self._func, *call.args, **call.kwargs)
        if stream:
            executor.start(body)
        else:
            executor.run(body)
        return State(executor, inside=False)

    def _check(
        self, bind: Callable[..., inspect.BoundArguments], *args: Any, **kwargs: Any
    ) -> inspect.BoundArguments:
        try:
            return bind(*args, **kwargs)
        except TypeError as error:
            raise ProgramError(f"{self.name}(): {error}") from None


_TAKEN = frozenset(inspect.signature(Program.run).parameters) - {"self", "args", "kwargs"}


def function(func: Callable[..., Any]) -> Program:
    """Make a program of a function whose first parameter is `s`, the state.

    Raises ProgramError for another first parameter, for parameters that `run()` has itself, and for
    coroutines and generators, whose bodies a call does not run.
    """
    name = getattr(func, "__name__", repr(func))
    if (
        inspect.iscoroutinefunction(func)
        or inspect.isgeneratorfunction(func)
        or inspect.isasyncgenfunction(func)
    ):
        raise ProgramError(f"{name} must be a plain function: neither async nor with yield")
    parameters = tuple(inspect.signature(func).parameters)
    if parameters[:1] != ("s",):
        raise ProgramError(f"the first parameter of {name} must be called s: it is the state")
    if taken := sorted(_TAKEN.intersection(parameters)):
        raise ProgramError(f"{name} cannot have parameters called {', '.join(taken)}: run() has them itself")
    return Program(func, {})
