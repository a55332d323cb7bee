# SPDX-License-Identifier: Apache-2.0
"""Programs as data: what is written down, what playing it does, and how all runs of a program begin."""

from __future__ import annotations

import pytest

import sgl_lang as sgl
from sgl_lang import ProgramError, Scripted, assistant, function, gen, select, system, user


@function
def few_shot(s, examples, question):
    """Answers a question."""
    s += system("Be brief.")
    with s.user():
        s += examples
        s += f"Q: {question}\n"
    s += assistant("A: " + gen("answer", stop="\n"))
    forks = s.fork(2)
    forks += lambda i: user("Again") + assistant(str(i) + gen("more"))
    forks.join()
    s["both"] = s["more"][0] + "/" + s["more"][1]
    s += "Both: " + s["both"] + " " + select("good", ["yes", "no"])
    return f"{s['answer']:>5}!"


def model(prompt, params):
    return "yes" if prompt.name == "good" else f"<{prompt.name} {len(prompt.text)}>"


def test_playing_a_trace_is_running_the_program():
    traced = few_shot.trace(examples="E\n")
    plain = few_shot.run("E\n", "why?", backend=Scripted(model))
    played = traced.run(question="why?", backend=Scripted(model))
    assert played.text() == plain.text()
    assert played.messages() == plain.messages()
    assert (played["both"], played["good"]) == (plain["both"], plain["good"])
    assert played.ret_value == plain.ret_value
    with pytest.raises(ProgramError, match="question"):
        traced.run(backend=Scripted(model))
    with pytest.raises(ProgramError, match="exampels"):
        few_shot.trace(exampels="E")


def test_a_trace_can_be_read():
    recording = few_shot.trace().recording
    assert isinstance(recording, sgl.Trace)
    assert recording.arguments == ("examples", "question")
    lines = str(recording).splitlines()
    assert lines[0] == "few_shot(examples, question)"
    assert any("s1..s2 = s0.fork(2)" in line for line in lines)
    assert any("Gen(name='answer', params=SamplingParams(stop=('\\n',)))" in line for line in lines)
    assert any("<the argument 'question'>" in line for line in lines)
    assert few_shot.recording is None


def test_how_every_run_begins():
    backend = Scripted({}, chat_template="default")
    assert few_shot.prefix(backend) == "SYSTEM:Be brief.\nUSER:"
    assert few_shot.prefix(backend, examples="E\n") == "SYSTEM:Be brief.\nUSER:E\nQ: "
    few_shot.bind(examples="E\n").cache(backend)
    assert [prompt.text for prompt in backend.warmed] == ["SYSTEM:Be brief.\nUSER:E\nQ: "]


def test_a_course_that_depends_on_the_unknown_is_followed_as_far_as_it_is_known():
    @function
    def program(s, question, tool=None):
        s += "Constant. "
        s += gen("a")
        if s["a"] == "x":
            s += "no"

    with pytest.raises(ProgramError, match=r"looks at s\['a'\], which is not known"):
        program.trace()
    assert program.prefix(Scripted({})) == "Constant. "

    @function
    def early(s, question):
        s += "Constant. "
        s += "long" if len(question) > 5 else "short"

    assert early.prefix(Scripted({})) == "Constant. "
    assert early.prefix(Scripted({}), question="123456") == "Constant. long"


@pytest.mark.parametrize(
    "look",
    [
        bool,
        len,
        list,
        int,
        float,
        lambda a: a == "x",
        lambda a: a < 1,
        lambda a: a.upper(),
        lambda a: "x" in a,
        lambda a: a * 2,
    ],
)
def test_an_unknown_value_is_never_taken_for_a_known_one(look):
    @function
    def program(s, a):
        look(a)

    with pytest.raises(ProgramError, match="the argument 'a'"):
        program.trace()


def test_everything_that_reads_is_read_at_its_place():
    @function
    def program(s, a):
        s += "x" + gen("v")
        first, text, meta = s["v"], s.text(), s.get_meta_info("v")
        s += gen("v") + "|"
        s += first + "|" + text + f"|{s['v']}|" + meta["kind"] + a[1]["k"]
        return s.messages()

    class Kind(Scripted):
        def generate(self, prompt, params):
            return sgl.Completion(model(prompt, params), {"kind": "K"})

    argument = [0, {"k": "!"}]
    plain = program.run(argument, backend=Kind({}))
    played = program.trace().run(argument, backend=Kind({}))
    assert played.text() == plain.text() == "x<v 1><v 6>|<v 1>|x<v 1>|<v 6>|K!"
    assert played.ret_value == plain.ret_value == []


def test_mistakes_are_found_without_a_model():
    @function
    def program(s):
        s += gen("a")
        s["b"]

    with pytest.raises(ProgramError, match="no variable 'b'; it has 'a'"):
        program.trace()

    @function
    def turns(s):
        s += sgl.user_end()

    with pytest.raises(ProgramError, match="no turn is open"):
        turns.trace()

    @function
    async def coroutine(s): ...

    with pytest.raises(ProgramError, match="cannot be traced"):
        coroutine.trace()


def test_what_is_kept_and_returned_is_known_when_it_is_played():
    @function
    def program(s, a, b="dflt"):
        s += f"{a!r}{b}" + gen("v")
        s["kept"] = [s["v"], {"k": f"<{a}>"}]
        return (s["v"], [a, f"{s['kept'][1]['k']}"], {"n": 3})

    plain = program.run(7, backend=Scripted(model))
    traced = program.trace()
    played = traced.run(7, backend=Scripted(model))
    assert played.text() == plain.text() == "7dflt<v 5>"
    assert (played["kept"], played.ret_value) == (plain["kept"], plain.ret_value)
    assert traced.run(7, "other", backend=Scripted(model)).text().startswith("7other")
    with pytest.raises(ProgramError, match="missing a required argument: 'a'"):
        traced.run(backend=Scripted(model))


@pytest.mark.parametrize(
    "expression",
    [
        lambda a: gen(f"n{a}"),
        lambda a: gen("n", max_tokens=a),
        lambda a: gen("n", stop=f"{a}"),
        lambda a: gen("n", stop=["x", f"{a}"]),
        lambda a: gen("n", regex=f"({a})+"),
        lambda a: select("n", [f"{a}", "b"]),
        lambda a: select("n", [a, "b"]),
        lambda a: sgl.image(a),
        lambda a: " ".join([a, "b"]),
    ],
)
def test_what_is_asked_of_the_model_must_be_known(expression):
    @function
    def program(s, a):
        s += f"Constant. {a}"
        s += "Known. " + expression(a)

    with pytest.raises((ProgramError, TypeError)):
        program.trace()
    assert program.prefix(Scripted({})) == "Constant. "


@pytest.mark.parametrize("look", ["usage", "error", "text_iter", "text_async_iter"])
def test_what_only_a_run_knows_is_refused(look):
    @function
    def program(s, a):
        s += "Constant. "
        getattr(s, look)()

    with pytest.raises(ProgramError, match=rf"{look}\(\) is not known"):
        program.trace()
    assert program.prefix(Scripted({})) == "Constant. "


def test_a_fork_or_a_scope_that_depends_on_the_unknown():
    @function
    def forked(s, a):
        s.fork(a)

    @function
    def scoped(s, a):
        with s.var_scope(f"{a}"):
            s += "x"

    for program in (forked, scoped):
        with pytest.raises(ProgramError, match=r"an argument of (fork|var_scope)\(\) is not known"):
            program.trace()
