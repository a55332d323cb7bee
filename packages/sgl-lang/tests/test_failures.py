# SPDX-License-Identifier: Apache-2.0
"""What a user sees when something goes wrong: the error, where the value is read, with the user's line."""

from __future__ import annotations

import contextvars
import os
import signal
import sys
import threading
import traceback

import pytest

from sgl_lang import BackendError, Completion, ProgramError, Scripted, assistant, function, gen, user


@function
def three(s):
    s += user("hi")
    s += assistant(gen("first"))
    s += assistant(gen("second"))  # the line that fails
    s += assistant(gen("third"))


@pytest.fixture
def failed():
    return three.run(backend=Scripted({"first": "1", "second": BackendError("out of order", status=503)}))


def test_a_failed_generation_raises_where_it_is_read(failed):
    assert failed["first"] == "1"
    for read in (
        lambda: failed["second"],
        lambda: failed["third"],
        lambda: failed.get_meta_info("second"),
        failed.text,
        failed.messages,
        lambda: list(failed.text_iter()),
        lambda: list(failed.text_iter("second")),
        lambda: failed["never asked for"],
    ):
        with pytest.raises(BackendError, match="out of order") as caught:
            read()
        assert caught.value is failed.error()
        assert caught.value.status == 503
    failed.sync()


def test_what_was_not_reached_is_not_generated():
    backend = Scripted({"first": "1"})
    three.run(backend=backend)
    assert [call.prompt.name for call in backend.calls] == ["first", "second"]


def test_the_traceback_names_the_lines_of_the_user(failed):
    with pytest.raises(BackendError) as caught:
        failed["second"]  # the line that reads
    told = "".join(traceback.format_exception(caught.value))
    assert "the line that reads" in told
    assert "a generation of the program 'three' failed" in told
    assert 's += assistant(gen("second"))  # the line that fails' in told
    assert f'File "{__file__}"' in told


def test_reading_again_does_not_grow_the_traceback(failed):
    def told() -> str:
        with pytest.raises(BackendError) as caught:
            failed["second"]
        return "".join(traceback.format_exception(caught.value))

    assert told() == told()


def test_a_with_block_is_named_by_its_own_line():
    @function
    def program(s):
        with s.system():  # the scope
            s += "x"

    error = program.run(backend=Scripted({}, chat_template=_no_system())).error()
    assert isinstance(error, ProgramError)
    assert "has no role 'system'; it has user" in str(error)
    assert "with s.system():  # the scope" in error.__notes__[0]


def _no_system():
    scripted = Scripted({}).chat_template
    return type(scripted)("plain", {"user": scripted.roles["user"]})


def test_an_unknown_variable_is_no_key_error():
    state = three.run(backend=Scripted({"first": "1", "second": "2", "third": "3"}))
    with pytest.raises(ProgramError, match="no variable 'fourth'; it has 'first', 'second', 'third'"):
        state["fourth"]
    with pytest.raises(ProgramError, match="no variable"):
        state.get_meta_info("fourth")


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_variable_inside_the_program_does_not_hang(stream):
    @function
    def program(s):
        s += gen("a")
        with pytest.raises(ProgramError, match="no variable 'b'; it has 'a'"):
            s["b"]
        with pytest.raises(ProgramError, match="cannot read it itself"):
            s.ret_value  # noqa: B018
        return "reached"

    assert program.run(backend=Scripted({"a": "1"}), stream=stream).ret_value == "reached"


def test_reading_a_failure_inside_the_program_ends_it():
    @function
    def program(s):
        s += gen("a")
        return s["a"]  # the program reads

    with pytest.raises(BackendError, match="no answer") as caught:
        program.run(backend=Scripted({}))  # the caller runs
    told = "".join(traceback.format_exception(caught.value))
    assert "the program reads" in told
    assert "the caller runs" in told
    state = program.run(backend=Scripted({}), stream=True)
    with pytest.raises(BackendError, match="no answer") as caught:
        list(state.text_iter())
    assert "the program reads" in "".join(traceback.format_exception(caught.value))


def test_an_error_of_the_function_itself():
    @function
    def program(s):
        s += gen("a")
        s["a"]
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        program.run(backend=Scripted({"a": "1"}))

    state = program.run(backend=Scripted({"a": "1"}), stream=True)
    assert state["a"] == "1"
    assert isinstance(state.error(), LookupError)
    for read in (
        lambda: state.ret_value,
        state.text,
        lambda: list(state.text_iter()),
        lambda: state["later"],
    ):
        with pytest.raises(LookupError, match="mine") as caught:
            read()
        assert 'raise LookupError("mine")' in "".join(traceback.format_exception(caught.value))


def test_an_error_of_the_function_gives_up_what_is_under_way(held):
    @function
    def program(s):
        s += gen("a") + gen("b")
        assert held.started.wait(10)
        raise LookupError("mine")

    with pytest.raises(LookupError):
        program.run(backend=held)
    assert len(held.aborts) == 1


def test_a_stream_that_nobody_wants_any_more_is_closed(held):
    seen = []

    class Deaf(type(held)):
        """Goes on after an abort, as a server may that has not heard of it."""

        def stream(self, prompt, params):
            self.started.set()
            try:
                for text in ("one", "one two", "one two three"):
                    assert self.permits.acquire(timeout=10)
                    seen.append(text)
                    yield Completion(text)
            finally:
                seen.append("closed")

        def abort(self, rid):
            self.permits.release()

    @function
    def program(s):
        s += "Say: " + gen("a")
        assert deaf.started.wait(10)
        raise LookupError("mine")

    deaf = Deaf()
    state = program.run(backend=deaf, stream=True)
    with pytest.raises(LookupError):
        state["a"]
    state.sync()
    assert seen == ["one", "closed"]
    assert state._executor.transcript.text == "Say: "


def test_an_exit_in_the_function_is_not_passed_on_to_readers():
    @function
    def program(s):
        s += "a"
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        program.run(backend=Scripted({}))
    with pytest.raises(ProgramError, match="interrupted by SystemExit"):
        program.run(backend=Scripted({}), stream=True).text()


def test_any_exception_of_a_backend_is_delivered():
    class Broken(Scripted):
        def generate(self, *args):
            raise KeyboardInterrupt  # not even this may leave the reader waiting

    state = three.run(backend=Broken({}))
    with pytest.raises(ProgramError, match="interrupted by KeyboardInterrupt"):
        state["first"]


def _interrupt_main() -> None:
    """Ctrl-C, as soon as the main thread waits for a change."""
    main = threading.main_thread().ident
    while not any(
        frame.f_code is threading.Condition.wait_for.__code__
        for frame, _ in traceback.walk_stack(sys._current_frames()[main])
    ):
        os.sched_yield()
    signal.pthread_kill(main, signal.SIGINT)


def test_ctrl_c_while_the_program_is_finished_off(held):
    held.on_start = _interrupt_main
    with pytest.raises(KeyboardInterrupt):
        three.run(backend=held)
    assert len(held.aborts) == 1
    assert not [t for t in threading.enumerate() if t.name.startswith("sgl ")]


def test_ctrl_c_while_the_program_reads(held):
    @function
    def program(s):
        s += gen("a") + gen("b")
        s["b"]

    held.on_start = _interrupt_main
    with pytest.raises(KeyboardInterrupt):
        program.run(backend=held)
    assert len(held.aborts) == 1
    assert not [t for t in threading.enumerate() if t.name.startswith("sgl ")]


@pytest.mark.parametrize("read", [lambda state: list(state.text_iter("first")), lambda state: state["first"]])
def test_ctrl_c_while_a_stream_is_read(held, read):
    held.on_start = _interrupt_main
    state = three.run(backend=held, stream=True)
    with pytest.raises(KeyboardInterrupt):
        read(state)
    assert len(held.aborts) == 1
    with pytest.raises(ProgramError, match="interrupted by KeyboardInterrupt"):
        state["first"]
    assert state.error() is not None


def test_backends_see_the_context_of_the_program():
    tenant = contextvars.ContextVar("tenant")
    seen = []

    class Seeing(Scripted):
        def generate(self, *args):
            seen.append(tenant.get())
            return super().generate(*args)

        def stream(self, *args):
            seen.append(tenant.get())
            return super().stream(*args)

    tenant.set("ours")
    answers = {"first": "1", "second": "2", "third": "3"}
    three.run(backend=Seeing(answers))
    three.run(backend=Seeing(answers), stream=True).sync()
    assert seen == ["ours"] * 6
    seen.clear()

    @function
    def program(s):
        for name in ("a", "b"):
            tenant.set(name)
            forks = s.fork(2)
            forks += gen("first")
            s += gen("first")

    program.run(backend=Seeing(answers))
    assert sorted(seen) == ["a"] * 3 + ["b"] * 3
