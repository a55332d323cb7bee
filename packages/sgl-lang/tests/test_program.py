# SPDX-License-Identifier: Apache-2.0
"""Programs: what is asked of the backend, in which order, with which parameters, and what comes out."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import sgl_lang as sgl
from sgl_lang import (
    ProgramError,
    Scripted,
    State,
    assistant,
    function,
    gen,
    set_default_backend,
    system,
    user,
)
from sgl_lang.default import _default


@pytest.fixture(autouse=True)
def _no_default_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_default, "backend", None)


# The program of the seed README, in English and in Chinese; its import names this package.
EXAMPLE = """
from sgl_lang import function, system, user, assistant, gen, set_default_backend, RuntimeEndpoint

@function
def multi_turn_question(s, question_1, question_2):
    s += system("{system}")
    s += user(question_1)
    s += assistant(gen("answer_1", max_tokens=256))
    s += user(question_2)
    s += assistant(gen("answer_2", max_tokens=256))

set_default_backend(RuntimeEndpoint("http://localhost:30000"))

state = multi_turn_question.run(
    question_1="{question_1}",
    question_2="{question_2}",
)

for m in state.messages():
    print(m["role"], ":", m["content"])

print(state["answer_1"])
"""
ENGLISH = {
    "system": "You are a helpful assistant.",
    "question_1": "What is the capital of the United States?",
    "answer_1": "Washington, D.C.",
    "question_2": "List two local attractions.",
    "answer_2": "The Mall and the Zoo.",
}
CHINESE = {
    "system": "你是一个乐于助人的助手。",
    "question_1": "美国的首都是哪里?",
    "answer_1": "华盛顿。",
    "question_2": "列举两个当地景点。",
    "answer_2": "白宫和国会山。",
}


@pytest.mark.parametrize("words", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_the_example_of_the_seed_readme(runtime, capsys, words):
    runtime.answer = lambda body: [words[f"answer_{body['text'].count('<|im_start|>user')}"]]
    exec(EXAMPLE.format(**words).replace("http://localhost:30000", runtime.url), {})
    _default.backend.close()

    said = list(words.values())
    roles = ["system", "user", "assistant", "user", "assistant"]
    lines = [f"{role} : {content}\n" for role, content in zip(roles, said, strict=True)]
    assert capsys.readouterr().out == "".join(lines) + words["answer_1"] + "\n"
    turns = [f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in zip(roles, said, strict=True)]
    ask = "<|im_start|>assistant\n"
    assert [body["text"] for body in runtime.bodies] == ["".join(turns[:2]) + ask, "".join(turns[:4]) + ask]
    assert all(body["sampling_params"]["max_new_tokens"] == 256 for body in runtime.bodies)
    assert all(body["sampling_params"]["stop"] == ["<|im_end|>"] for body in runtime.bodies)


@function
def multi_turn_question(s, question_1, question_2):
    s += system("You are a helpful assistant.")
    s += user(question_1)
    s += assistant(gen("answer_1", max_tokens=256))
    s += user(question_2)
    s += assistant(gen("answer_2", max_tokens=256))


def test_parameters_of_gen_prevail_over_those_of_run():
    @function
    def program(s):
        s += "a" + gen("plain") + "b"
        s += gen("own", max_tokens=5, stop="x", temperature=0, top_k=3, seed=7, min_p=0.1, min_tokens=2)
        s += assistant(gen("turn", stop=["x", "y"]))
        s += assistant(gen("default_stop"))

    backend = Scripted({"plain": "1", "own": "2", "turn": "3", "default_stop": "4"})
    program.run(stop="run", temperature=0.5, stop_token_ids=[9], repetition_penalty=1.1, backend=backend)

    plain, own, turn, default_stop = (call.params for call in backend.calls)
    assert (plain.max_new_tokens, plain.stop, plain.temperature, plain.top_k) == (128, ("run",), 0.5, -1)
    assert plain.stop_token_ids == (9,)
    assert plain.repetition_penalty == 1.1
    assert plain.seed is None
    assert (own.max_new_tokens, own.stop, own.temperature, own.top_k) == (5, ("x",), 0, 3)
    assert (own.seed, own.min_p, own.min_new_tokens, own.top_p) == (7, 0.1, 2, 1.0)
    assert turn.stop == ("x", "y", "<|im_end|>")
    assert default_stop.stop == ("run", "<|im_end|>")
    assert [call.prompt.text for call in backend.calls][:2] == ["a", "a1b"]


def test_every_way_to_write_a_turn_is_the_same():
    @function
    def expressions(s):
        s += system("be kind")
        s += user("Q: " + "why?")
        s += assistant("A: " + gen("a", stop="\n"))

    @function
    def methods(s):
        s += s.system("be kind")
        s += s.user("Q: why?")
        s += s.assistant("A: " + gen("a", stop="\n"))

    @function
    def scopes(s):
        with s.system():
            s += "be kind"
        with s.user():
            s += "Q: "
            s += "why?"
        with s.assistant():
            s += "A: "
            s += gen("a", stop="\n")

    @function
    def begin_end(s):
        s += sgl.system_begin() + "be kind" + sgl.system_end()
        s += sgl.user_begin()
        s += "Q: why?"
        s += sgl.user_end() + sgl.assistant_begin() + "A: "
        s += gen("a", stop="\n") + sgl.assistant_end()

    states = [p.run(backend=Scripted({"a": "so"})) for p in (expressions, methods, scopes, begin_end)]
    assert len({state.text() for state in states}) == 1
    assert states[0].messages() == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "Q: why?"},
        {"role": "assistant", "content": "A: so"},
    ]
    assert all(state.messages() == states[0].messages() for state in states)


def test_the_default_system_prompt_stands_in_when_the_program_states_none():
    @function
    def silent(s):
        s += user("hi") + assistant(gen("a"))

    @function
    def stated(s):
        s += system("") + user("hi") + assistant(gen("a"))

    backend = Scripted({"a": "ho"}, chat_template="qwen")
    assert silent.run(backend=backend).messages()[0] == {
        "role": "system",
        "content": "You are a helpful assistant.",
    }
    assert backend.calls[0].prompt.text.startswith(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    )
    assert [m["content"] for m in stated.run(backend=backend).messages()] == ["", "hi", "ho"]
    assert len(silent.run(backend=Scripted({"a": "ho"})).messages()) == 2


def test_the_prompt_carries_the_turns_with_the_open_one_last():
    @function
    def program(s):
        s += user("hi")
        s += assistant("I say " + gen("a"))

    backend = Scripted({"a": "ho"})
    program.run(backend=backend)
    assert backend.calls[0].prompt.messages == (("user", "hi"), ("assistant", "I say "))


def test_control_flow_reads_values_and_variables_may_be_asked_again():
    @function
    def tool_use(s, question):
        s += "To answer " + question + ", I need a " + gen("tool") + ". "
        if s["tool"] == "calculator":
            s += "The expression is " + gen("expression")
        s["seen"] = ""
        for _ in range(2):
            s += gen("again")
            s["seen"] += s["again"]
        return s["tool"].upper()

    backend = Scripted({"tool": "calculator", "expression": "1+1", "again": ["x", "y"]})
    state = tool_use.run("how much", backend=backend)
    assert state.text() == "To answer how much, I need a calculator. The expression is 1+1xy"
    assert (state["expression"], state["again"], state["seen"]) == ("1+1", "y", "xy")
    assert state.get_var("tool") == "calculator"
    assert state.ret_value == "CALCULATOR"
    assert state.get_meta_info("tool") == {"id": backend.calls[0].prompt.rid}
    assert "tool" in state
    assert "word" not in state


def test_gen_does_not_block_until_it_is_read(held):
    reached = threading.Event()

    @function
    def program(s):
        s += gen("a")
        reached.set()
        assert not s._executor.find("a").done
        held.permits.release(3)
        assert s["a"] == "one two three"

    program.run(backend=held)
    assert reached.is_set()


def test_a_program_may_be_part_of_another():
    @function
    def ask(s, question, name):
        s += user(question)
        s += assistant(gen(name))
        return s[name]

    @function
    def both(s):
        first = ask(s, "one?", name="a")
        return first + ask.bind(name="b")(s, question="two?")

    state = both.run(backend=Scripted({"a": "1", "b": "2"}))
    assert state.ret_value == "12"
    assert [m["content"] for m in state.messages()] == ["one?", "1", "two?", "2"]
    with pytest.raises(ProgramError, match=r"ask\.run"):
        ask(question="one?", name="a")


def test_bind_gives_arguments_beforehand():
    bound = multi_turn_question.bind(question_1="a")
    backend = Scripted({"answer_1": "b", "answer_2": "d"})
    assert [m["content"] for m in bound.run(question_2="c", backend=backend).messages()][1:] == [
        "a",
        "b",
        "c",
        "d",
    ]
    assert bound.__name__ == multi_turn_question.__name__ == "multi_turn_question"
    with pytest.raises(ProgramError, match=r"multi_turn_question\(\).*question_3"):
        multi_turn_question.bind(question_3="x")


@pytest.mark.parametrize("stream", [False, True])
def test_arguments_are_checked_where_run_is_called(stream):
    backend = Scripted({})
    with pytest.raises(ProgramError, match="question_2"):
        multi_turn_question.run("a", backend=backend, stream=stream)
    with pytest.raises(ProgramError, match="temprature"):
        multi_turn_question.run("a", "b", temprature=0, backend=backend, stream=stream)
    assert backend.calls == []


def test_what_cannot_be_a_program_is_refused():
    with pytest.raises(ProgramError, match="must be called s"):
        function(lambda state: None)
    with pytest.raises(ProgramError, match=r"called stop, temperature: run\(\) has them"):
        function(lambda s, stop, temperature: None)

    def generator(s: State) -> Any:
        yield s

    async def async_generator(s: State) -> Any:
        yield s

    for func in (generator, async_generator):
        with pytest.raises(ProgramError, match="without yield"):
            function(func)
    for tokens in (0, "5", True):
        with pytest.raises(ProgramError, match="num_api_spec_tokens"):
            function(num_api_spec_tokens=tokens)(lambda s: None)


def test_without_a_backend_run_says_how_to_get_one():
    with pytest.raises(ProgramError, match="set_default_backend"):
        multi_turn_question.run("a", "b")


def test_the_default_backend_serves_threads_that_inherit_no_context():
    set_default_backend(Scripted({"answer_1": "1", "answer_2": "2"}))
    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(lambda i: multi_turn_question.run(f"q{i}", "r"), range(40)))
    assert [state.messages()[1]["content"] for state in states] == [f"q{i}" for i in range(40)]
    assert all(state["answer_2"] == "2" for state in states)


@pytest.mark.parametrize("wrong", [None, 5, ["text"]])
def test_only_text_and_expressions_can_be_appended(wrong):
    @function
    def program(s):
        s += wrong

    with pytest.raises(ProgramError, match=type(wrong).__name__):
        program.run(backend=Scripted({}))
    with pytest.raises(ProgramError, match=type(wrong).__name__):
        user(wrong)


def test_parameters_that_cannot_be_sent_are_refused():
    for name, value in (("temperature", float("nan")), ("top_p", float("inf"))):
        with pytest.raises(ProgramError, match=f"{name} must be a finite number, not {value}"):
            gen("a", **{name: value})
        with pytest.raises(ProgramError, match=name):
            multi_turn_question.run("a", "b", backend=Scripted({}), **{name: value})
    with pytest.raises(ProgramError, match="stop must be a str or several, not int"):
        gen("a", stop=5)


def test_expressions_in_f_strings_are_refused():
    with pytest.raises(ProgramError, match=r'"\.\.\." \+ gen'):
        f"The answer is {gen('answer')}"
    with pytest.raises(ProgramError, match="name first"):
        gen(128)
    with pytest.raises(TypeError):
        gen("a") + 5


def test_turns_that_do_not_match_are_refused_at_their_line():
    cases = [
        (lambda: user("a" + assistant("b")), "'assistant' begins before the turn of 'user'"),
        (sgl.user_end, "'user' ends, but no turn is open"),
        (lambda: sgl.system_begin() + sgl.user_end(), "'user' ends, but the open turn is of 'system'"),
    ]
    for make, message in cases:

        @function
        def program(s, make=make):
            s += make()

        with pytest.raises(ProgramError, match=message):
            program.run(backend=Scripted({}))


def test_a_turn_left_open_is_still_among_the_messages():
    @function
    def program(s):
        s += user("hi") + sgl.assistant_begin() + gen("a")

    assert program.run(backend=Scripted({"a": "ho"})).messages()[-1] == {"role": "assistant", "content": "ho"}


def test_a_turn_ends_with_its_block_even_by_an_error():
    @function
    def program(s):
        try:
            with s.user():
                s += "The file says: "
                raise OSError("no such file")
        except OSError as error:
            s += assistant(str(error))

    assert [m["content"] for m in program.run(backend=Scripted({})).messages()] == [
        "The file says: ",
        "no such file",
    ]


def test_a_state_cannot_be_extended_after_its_program():
    state = multi_turn_question.run("a", "b", backend=Scripted({"answer_1": "1", "answer_2": "2"}))
    with pytest.raises(ProgramError, match="has ended"):
        state += "more"


def test_functions_of_the_server():
    class Server(Scripted):
        flushed = 0

        def flush_cache(self) -> None:
            self.flushed += 1

        def get_server_args(self) -> dict[str, Any]:
            return {"tp_size": 1}

    server = Server({})
    set_default_backend(server)
    sgl.flush_cache()
    assert server.flushed == 1
    assert sgl.get_server_args() == sgl.get_server_args(server) == {"tp_size": 1}
    with pytest.raises(sgl.UnsupportedByBackend, match=r"flush_cache\(\) needs a server.*Scripted"):
        sgl.flush_cache(Scripted({}))


@pytest.mark.parametrize(
    "wrong", [{"stop_token_ids": 5}, {"stop_token_ids": "ab"}, {"logit_bias": 5}, {"dtype": [int]}]
)
def test_a_parameter_of_the_wrong_type_is_named_where_it_is_written(wrong):
    (name,) = wrong
    with pytest.raises(ProgramError, match=name):
        gen("answer", **wrong)


def test_a_run_names_its_parameters_of_the_wrong_type():
    program = function(lambda s: None)
    for wrong in ({"stop_token_ids": 5}, {"logit_bias": 5}):
        with pytest.raises(ProgramError, match=next(iter(wrong))):
            program.run(backend=Scripted({}), **wrong)
