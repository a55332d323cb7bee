# SPDX-License-Identifier: Apache-2.0
"""`@function` makes a `Program` of a function whose first parameter is the state `s`.

Running it means: a state, the function's body in the caller's thread (streaming: in one of its own), and all
that it appends carried out. No thread outlives the run.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Unpack, overload

from sgl_lang import tracing
from sgl_lang.async_state import AsyncState
from sgl_lang.backends.protocol import Backend, Prompt
from sgl_lang.batch import Gate, run_all, thread_count
from sgl_lang.default import default_backend
from sgl_lang.errors import ProgramError
from sgl_lang.executor import Executor
from sgl_lang.progress import Progress
from sgl_lang.run import Run, Settings
from sgl_lang.sampling import Sampling, defaults_of
from sgl_lang.state import State
from sgl_lang.traced import Trace
from sgl_lang.writing import Writing

_RUN_ONLY = frozenset(Sampling.__annotations__)  # what the keyword arguments of a run mean to the run itself


@dataclass(frozen=True, slots=True)
class _Launch:
    """A run about to begin: its root, and the body with its arguments but the state."""

    executor: Executor
    body: Callable[[Any], Any]
    is_async: bool

    @property
    def run(self) -> Run:
        return self.executor.run

    def drive(self) -> None:
        """Run to the end in this thread; raises what the body raises."""
        if self.is_async:
            asyncio.run(self.drive_async())
        else:
            self.run.drive(functools.partial(self.body, State(self.executor, inside=True)))

    async def drive_async(self) -> None:
        await self.run.drive_async(functools.partial(self.body, AsyncState(self.executor, inside=True)))


class Program:
    """A function on a state, made by `@function`. Programs are values; running one changes nothing in it."""

    def __init__(
        self, func: Callable[..., Any], bound: Mapping[str, Any], num_api_spec_tokens: int | None = None
    ) -> None:
        functools.update_wrapper(self, func)
        self.name = getattr(func, "__name__", type(func).__name__)
        self.num_api_spec_tokens = num_api_spec_tokens
        self._func = func
        self._bound = dict(bound)
        self._is_async = inspect.iscoroutinefunction(func)
        self._signature = inspect.signature(func)
        self.recording: Trace | None = None

    def bind(self, **kwargs: Any) -> Program:
        """The same program with these arguments given. ProgramError for a name that is no parameter."""
        bound = {**self._bound, **kwargs}
        self._check(self._signature.bind_partial, None, **bound)
        return Program(self._func, bound, self.num_api_spec_tokens)

    def __call__(self, s: Writing | None = None, /, *args: Any, **kwargs: Any) -> Any:
        """Go through this program as a part of another one, on that one's state; returns what it returns.

        A program that is a coroutine is awaited, in another one that is.
        """
        if not isinstance(s, Writing):
            raise ProgramError(
                f"{self.name}(s, ...) continues a program from its state s; to run it, {self.name}.run(...)"
            )
        if self._is_async and not isinstance(s, AsyncState):
            raise ProgramError(f"{self.name} is a coroutine: only an async program can have it as a part")
        return self._func(s, *args, **{**self._bound, **kwargs})

    # -- running

    def run(
        self,
        *args: Any,
        max_new_tokens: int = 128,
        min_new_tokens: int | None = None,
        n: int | None = None,
        stop: str | Iterable[str] = (),
        stop_token_ids: Iterable[int] = (),
        stop_regex: str | Iterable[str] = (),
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = -1,
        min_p: float | None = None,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        repetition_penalty: float | None = None,
        logit_bias: Mapping[int, float] | None = None,
        ignore_eos: bool = False,
        seed: int | None = None,
        skip_special_tokens: bool | None = None,
        spaces_between_special_tokens: bool | None = None,
        include_stop_str_in_output: bool | None = None,
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
        A program that is a coroutine gets an event loop of its own; where one runs already, it is awaited
        with `run_async`.
        """
        sampling = Sampling(
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            n=n,
            stop=stop,
            stop_token_ids=stop_token_ids,
            stop_regex=stop_regex,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty,
            repetition_penalty=repetition_penalty,
            logit_bias=logit_bias,
            ignore_eos=ignore_eos,
            seed=seed,
            skip_special_tokens=skip_special_tokens,
            spaces_between_special_tokens=spaces_between_special_tokens,
            include_stop_str_in_output=include_stop_str_in_output,
            return_logprob=return_logprob,
            logprob_start_len=logprob_start_len,
            top_logprobs_num=top_logprobs_num,
            return_text_in_logprobs=return_text_in_logprobs,
        )
        launch = self._launch(args, kwargs, self._settings(backend, sampling, stream=stream))
        if self._is_async and not stream and _loop_is_running():
            raise ProgramError(
                f"{self.name} is a coroutine and an event loop is running: await {self.name}.run_async(...)"
            )
        if stream:
            launch.run.start(launch.drive)
        else:
            launch.drive()
        return State(launch.executor, inside=False)

    async def run_async(
        self, *args: Any, stream: bool = False, backend: Backend | None = None, **kwargs: Any
    ) -> AsyncState:
        """`run` for coroutines, with the same arguments. A plain function runs in a thread meanwhile."""
        sampling = Sampling(**{name: kwargs.pop(name) for name in _RUN_ONLY & kwargs.keys()})  # type: ignore[typeddict-item]
        launch = self._launch(args, kwargs, self._settings(backend, sampling, stream=stream))
        run = launch.run
        state = AsyncState(launch.executor, inside=False)
        if stream and self._is_async:
            run.keep(asyncio.create_task(_quietly(launch)))
        elif stream:
            run.start(launch.drive)
        elif self._is_async:
            await launch.drive_async()
        else:
            run.start(launch.drive)
            try:
                await run.wait_async(lambda: run.ended)
            except BaseException as error:
                await asyncio.to_thread(run.cancel, error)
                raise
            if run.returned.exception() is not None:
                await state.ret_value()
        return state

    def run_batch(
        self,
        batch_kwargs: Sequence[Mapping[str, Any] | Sequence[Any]],
        *,
        backend: Backend | None = None,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        **sampling: Unpack[Sampling],
    ) -> list[State]:
        """Run the program once for each entry of a list, many at a time; the states are in the list's order.

        Args:
            batch_kwargs: the arguments of each run: a dict, or a tuple of the function's arguments in order.
            num_threads: how many run at once; "auto" means up to 96, or 16 for each processor.
            progress_bar: write to standard error how many are done.
            sampling: as for `run`.

        What all prompts begin with is computed once, before the others. A run that fails fails alone: what
        its function raised is raised where its state is read, and `error()` returns it. Raises ProgramError,
        before anything runs, for arguments that the function does not take.
        """
        chosen = default_backend() if backend is None else backend
        threads = thread_count(num_threads, len(batch_kwargs))
        shares = threads > 1 and chosen.capabilities.prefix_cache
        settings = self._settings(chosen, sampling, before=Gate(chosen).arrive if shares else None)
        launches = [self._entry(index, entry, settings) for index, entry in enumerate(batch_kwargs)]
        runs = [(launch.run, launch.drive) for launch in launches]
        run_all(runs, threads, name=self.name, progress=Progress(len(runs), shown=progress_bar))
        return [State(launch.executor, inside=False) for launch in launches]

    # -- tracing

    def trace(self, **known: Any) -> Program:
        """The program as it is seen from outside: its body, run once without a model, becomes a `Trace`.

        Arguments that are not given stay open. The result is a program with those for parameters, whose
        `recording` is the trace; running it does what the body did. Raises ProgramError where the course of
        the program depends on what is not known, and for coroutines.
        """
        recording = self._traced(known, partial=False)
        program = Program(_player(recording, self._signature), {}, self.num_api_spec_tokens)
        program.recording = recording
        return program

    def prefix(self, backend: Backend | None = None, **known: Any) -> str:
        """What the text of every run begins with, as far as it does not depend on unknown arguments.

        A course that depends on `is` or `isinstance` is not seen: what is unknown has no value and no type.
        """
        chosen = default_backend() if backend is None else backend
        return self._traced(known, partial=True).prefix(chosen.chat_template)

    def cache(self, backend: Backend | None = None, **known: Any) -> None:
        """Have the backend compute `prefix` and keep it, so that the next run begins sooner."""
        chosen = default_backend() if backend is None else backend
        if text := self.prefix(chosen, **known):
            chosen.warm(Prompt(os.urandom(16).hex(), text))

    def _traced(self, known: Mapping[str, Any], *, partial: bool) -> Trace:
        if self._is_async:
            raise ProgramError(f"{self.name} is a coroutine, which cannot be traced")
        given = {**self._bound, **known}
        self._check(self._signature.bind_partial, None, **given)
        parameters = tuple(self._signature.parameters.values())[1:]
        open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        unknown = tuple(p.name for p in parameters if p.name not in given and p.kind not in open_ended)
        return tracing.trace(self.name, self._func, given, unknown, partial=partial)

    # -- from arguments to a run

    def _settings(
        self,
        backend: Backend | None,
        sampling: Sampling,
        *,
        stream: bool = False,
        before: Callable[[Prompt], None] | None = None,
    ) -> Settings:
        return Settings(
            backend=default_backend() if backend is None else backend,
            defaults=defaults_of(sampling),
            name=self.name,
            stream=stream,
            speculate=self.num_api_spec_tokens,
            before=before,
        )

    def _entry(self, index: int, entry: object, settings: Settings) -> _Launch:
        try:
            if isinstance(entry, Mapping):
                return self._launch((), entry, settings)
            if isinstance(entry, Sequence) and not isinstance(entry, str):
                return self._launch(entry, {}, settings)
        except ProgramError as error:
            raise ProgramError(f"batch_kwargs[{index}]: {error}") from None
        raise ProgramError(
            f"batch_kwargs[{index}] must be a dict or a tuple of arguments, not {type(entry).__name__}"
        )

    def _launch(self, args: Sequence[Any], kwargs: Mapping[str, Any], settings: Settings) -> _Launch:
        given = {**self._bound, **kwargs}
        self._check(self._signature.bind, None, *args, **given)
        executor = Executor(Run(settings))
        executor.run.root = executor

        def body(s: Writing) -> Any:
            return self._func(s, *args, **given)

        return _Launch(executor, body, self._is_async)

    def _check(self, bind: Callable[..., inspect.BoundArguments], *args: Any, **kwargs: Any) -> None:
        try:
            bind(*args, **kwargs)
        except TypeError as error:
            raise ProgramError(f"{self.name}(): {error}") from None


def _player(recording: Trace, traced: inspect.Signature) -> Callable[..., Any]:
    """The function whose body is a trace of one with the signature `traced`."""

    def play(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return recording.play(**bound.arguments)

    names = ("s", *recording.arguments)
    signature = inspect.Signature([traced.parameters[name] for name in names])
    play.__signature__ = signature  # type: ignore[attr-defined]
    play.__name__ = play.__qualname__ = recording.name
    return play


_TAKEN = frozenset(inspect.signature(Program.run).parameters) - {"self", "args", "kwargs"}


@overload
def function(func: Callable[..., Any]) -> Program: ...
@overload
def function(*, num_api_spec_tokens: int | None = None) -> Callable[[Callable[..., Any]], Program]: ...
def function(
    func: Callable[..., Any] | None = None, *, num_api_spec_tokens: int | None = None
) -> Program | Callable[[Callable[..., Any]], Program]:
    """Make a program of a function, or of a coroutine function, whose first parameter is `s`, the state.

    Args:
        num_api_spec_tokens: let the model say this many tokens ahead, and take several `gen` of a turn from
            one call where the program's words in between are those that the model said. For backends that
            are paid by the call. Each of these `gen` needs a stop string, except in a chat's turn before
            words of the program and at its end; its `max_tokens` bounds the call, not its own part of it.

    Raises ProgramError for another first parameter, for parameters that `run()` has itself, and for
    generators, whose bodies a call does not run.
    """
    if func is None:
        return functools.partial(_program, num_api_spec_tokens)
    return _program(num_api_spec_tokens, func)


def _program(num_api_spec_tokens: Any, func: Callable[..., Any]) -> Program:
    name = getattr(func, "__name__", repr(func))
    if num_api_spec_tokens is not None and (type(num_api_spec_tokens) is not int or num_api_spec_tokens < 1):
        raise ProgramError(f"num_api_spec_tokens must be an int of at least 1, not {num_api_spec_tokens!r}")
    if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
        raise ProgramError(f"{name} must be a plain function or a coroutine function, without yield")
    parameters = tuple(inspect.signature(func).parameters)
    if parameters[:1] != ("s",):
        raise ProgramError(f"the first parameter of {name} must be called s: it is the state")
    if taken := sorted(_TAKEN.intersection(parameters)):
        raise ProgramError(f"{name} cannot have parameters called {', '.join(taken)}: run() has them itself")
    return Program(func, {}, num_api_spec_tokens)


async def _quietly(launch: _Launch) -> None:
    with suppress(Exception):  # kept by the run, raised where its state is read
        await launch.drive_async()


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
