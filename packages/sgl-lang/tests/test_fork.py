# SPDX-License-Identifier: Apache-2.0
"""Forks: what they begin with, that nobody waits for anybody, and how what they have comes back."""

from __future__ import annotations

import threading

import pytest

import sgl_lang as sgl
from sgl_lang import BackendError, Capabilities, ProgramError, Scripted, assistant, function, gen, user


def echo(prompt, params):
    """Says how long the prompt is."""
    return f"<{len(prompt.text)}>"


@function
def tip_suggestion(s):
    s += "Two tips: 1. Balanced diet. 2. Regular exercise.\n\n"
    forks = s.fork(2)
    for i, f in enumerate(forks):
        f += f"Now, expand tip {i + 1} into a paragraph:\n"
        f += gen("detailed_tip", max_tokens=256, stop="\n\n")
    s += "Tip 1:" + forks[0]["detailed_tip"] + "\n"
    s += "Tip 2:" + forks[1]["detailed_tip"] + "\n"
    s += "In summary" + gen("summary")


def test_the_program_of_the_seed_readme():
    backend = Scripted(lambda prompt, params: prompt.text[-21:-19] if prompt.name != "summary" else " ok")
    state = tip_suggestion.run(backend=backend)
    assert state.text().endswith("\n\nTip 1: 1\nTip 2: 2\nIn summary ok")
    texts = {call.prompt.text for call in backend.calls if call.prompt.name == "detailed_tip"}
    beginning = "Two tips: 1. Balanced diet. 2. Regular exercise.\n\nNow, expand tip "
    assert texts == {beginning + f"{i} into a paragraph:\n" for i in (1, 2)}


def test_forks_are_appended_to_together():
    @function
    def program(s):
        s += "a"
        forks = s.fork(3)
        forks += "b"
        forks += ["x", "y", "z"]
        forks += lambda i: str(i) + gen("g")
        forks[0] += "!"
        assert len(forks) == 3
        assert [f.text() for f in forks[1:]] == ["aby1<4>", "abz2<4>"]
        with pytest.raises(ProgramError, match="2 expressions cannot be appended to 3 forks"):
            forks += ["x", "y"]
        with pytest.raises(ProgramError, match="cannot be replaced"):
            forks[0] = forks[1]
        return forks[0].text()

    state = program.run(backend=Scripted(echo))
    assert (state.ret_value, state.text()) == ("abx0<4>!", "a")


@pytest.mark.parametrize("size", [0, -1, "2", True, 1.5])
def test_a_number_of_forks_that_is_none(size):
    @function
    def program(s):
        s.fork(size)

    with pytest.raises(ProgramError, match="at least 1"):
        program.run(backend=Scripted({}))


def test_gathering_makes_lists_of_new_variables():
    @function
    def program(s):
        s += "q" + gen("before")
        s["kept"] = 1
        with s.fork(3) as forks:
            forks += lambda i: "o" * i + gen("g")
            forks[1]["mine"] = "m"
            forks[2]["kept"] = 2
            assert forks[0]["before"] == "<1>"  # known to the forks too
        return s["g"], s["mine"], s["kept"], s["before"], s.get_meta_info("g")

    values = program.run(backend=Scripted(echo)).ret_value
    assert values[:4] == (["<4>", "<5>", "<6>"], ["m"], [2], "<1>")
    assert len({meta["id"] for meta in values[4]}) == 3


def test_concatenating_appends_the_texts_in_order():
    @function
    def program(s):
        s += "a"
        forks = s.fork(2)
        forks += lambda i: f"[{i}" + gen("g") + "]"
        forks.join("concate_and_append")
        s += gen("end")

    backend = Scripted(echo)
    assert program.run(backend=backend).text() == "a[0<3>][1<3>]<13>"
    assert "g" not in program.run(backend=backend)


def test_concatenating_turns_keeps_them_turns():
    @function
    def program(s):
        s += user("hi")
        with s.copy() as c:
            c += assistant(gen("tried"))
        forks = s.fork(2)
        forks += lambda i: assistant(f"{i}" + gen("g")) + user("more?" + sgl.image(b"GIF89a"))
        forks.join("concate_and_append")

    state = program.run(backend=Scripted({"tried": "t", "g": "g"}))
    shown = {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODlh"}}
    more = {"role": "user", "content": [{"type": "text", "text": "more?"}, shown]}
    said = [{"role": "assistant", "content": f"{i}g"} for i in range(2)]
    assert state.messages() == [{"role": "user", "content": "hi"}, said[0], more, said[1], more]
    assert state["tried"] == ["t"]


def test_concatenating_within_a_turn():
    @function
    def program(s):
        s += user("hi")
        with s.assistant():
            s += "I see "
            forks = s.fork(2)
            forks += lambda i: gen("g") + sgl.image(b"GIF89a") + f" and {i} "
            forks.join("concate_and_append")
        again = s.fork(1)
        again += sgl.user_begin() + "left open"
        with pytest.raises(ProgramError, match="must end in the turn in which it began"):
            again.join("concate_and_append")
        with pytest.raises(ProgramError, match="gather_variable"):
            again.join("both")

    backend = Scripted({"g": "a"})
    state = program.run(backend=backend)
    content = state.messages()[1]["content"]
    assert "".join(piece.get("text", "#") for piece in content) == "I see a# and 0 a# and 1 "


def test_nobody_waits_for_a_fork_to_begin(held):
    """Forks of forks are made while the first generation has not even begun."""
    made = threading.Event()

    @function
    def program(s):
        s += gen("a")
        forks = s.fork(2)
        forks += gen("b")
        below = [f.fork(2) for f in forks]
        made.set()
        held.permits.release(100)
        return [g.text() for group in below for g in group]

    state = program.run(backend=held)
    assert made.is_set()
    assert state.ret_value == ["one two threeone two three"] * 4


def test_an_error_in_a_fork_stays_there_until_it_is_read():
    @function
    def program(s, how):
        s += "a"
        forks = s.fork(2)
        forks += lambda i: gen(f"g{i}")
        forks += gen("same")
        s += "b"
        if how == "read":
            return forks[1]["g1"]
        forks.join("gather_variable" if how == "gather" else "concate_and_append")
        return s["g0"], s["g1"]

    answers = {"g0": "0", "g1": BackendError("broken"), "same": "x"}
    for how in ("read", "gather", "append"):
        with pytest.raises(BackendError, match="broken") as caught:
            program.run(how, backend=Scripted(answers))
        assert "forks += lambda i" in "".join(caught.value.__notes__)

    @function
    def careful(s):
        forks = s.fork(2)
        forks += lambda i: gen(f"g{i}")
        return [f.error() for f in forks]

    state = careful.run(backend=Scripted(answers))
    assert [type(error) for error in state.ret_value] == [type(None), BackendError]
    assert state.error() is None


def test_the_forks_of_a_state_that_failed_have_failed():
    @function
    def program(s):
        s += gen("a")
        forks = s.fork(2)
        forks += gen("b")
        return [f.error() for f in forks]

    state = program.run(backend=Scripted({"a": BackendError("broken"), "b": "b"}))
    assert [str(error) for error in state.ret_value] == ["broken", "broken"]


def test_what_forks_share_is_computed_once():
    long = "word " * 50

    @function
    def program(s):
        s += long
        forks = s.fork(3)
        forks += gen("g")
        for f in forks:
            f.fork(3)  # that text is known already
        s += gen("a") + long
        s.fork(1)  # one fork shares with nobody
        return forks[0].text()

    backend = Scripted({"g": "g", "a": "a"})
    program.run(backend=backend)
    assert [prompt.text for prompt in backend.warmed] == [long]
    cold = Scripted({"g": "g", "a": "a"}, capabilities=Capabilities(prefix_cache=False))
    program.run(backend=cold)
    assert cold.warmed == []


def test_var_scopes():
    @function
    def program(s):
        s += "a"
        with s.var_scope("outer"):
            s += "b" + gen("g")
            with s.var_scope("inner"):
                s += user("c")
        return s["inner"]

    state = program.run(backend=Scripted({"g": "G"}, chat_template="default"))
    assert state.ret_value == state["inner"] == "USER:c\n"
    assert state["outer"] == "bGUSER:c\n"
    failed = program.run(backend=Scripted({"g": BackendError("broken")}), stream=True)
    with pytest.raises(BackendError, match="broken"):
        failed["outer"]


def test_several_samples():
    @function
    def program(s):
        s += "x" + gen("a", n=3) + "y"
        with s.copy() as c:
            c += gen("b", n=2)

    backend = Scripted({"a": ["1", "2", "3"], "b": ["4", "5"]})
    for stream in (False, True):
        backend = Scripted({"a": ["1 one", "2", "3"], "b": ["4", "5"]})
        state = program.run(backend=backend, stream=stream)
        assert state["a"] == ["1 one", "2", "3"]
        assert state.text() == "x1 oney"
        assert len(state.get_meta_info("a")) == 3
        assert state["b"] == [["4", "5"]]
