# SPDX-License-Identifier: Apache-2.0
"""One call for several generations: the same text as without, in fewer calls, where the text allows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_lang import (
    BackendError,
    Capabilities,
    Completion,
    Scripted,
    UnsupportedByBackend,
    assistant,
    assistant_begin,
    function,
    gen,
    system,
    user,
)

TEXT = Capabilities(scores=None)
CHAT = Capabilities(shape="chat", continues_turns=False, scores=None)
PREFILL = Capabilities(shape="chat", scores=None)


class Reciting(Scripted):
    """A model that knows one text by heart, goes on wherever it is, and counts a letter as a token."""

    def __init__(self, text, **kwargs):
        super().__init__({}, chat_template="default", **kwargs)
        self.text = text
        self.asked = []

    def generate(self, prompt, params):
        said = len(prompt.messages[-1].content) if self.capabilities.shape == "chat" else len(prompt.text)
        rest = self.text[said:]
        self.asked.append(params)
        end = min([rest.find(stop) for stop in params.stop or () if stop in rest], default=len(rest))
        kind = "stop" if end <= params.max_new_tokens else "length"
        return Completion(rest[: min(end, params.max_new_tokens)], {"finish_reason": {"type": kind}})


CARD = "Name: Ada.\nBorn: 1815.\nJob: countess.\nAnd so on and on."


def fields(s):
    s += (
        "Name:"
        + gen("name", stop="\n")
        + "\nBorn:"
        + gen("born", stop="\n")
        + "\nJob:"
        + gen("job", stop="\n")
    )


def turns(s):
    s += user("Construct a character") + assistant(
        "Name:" + gen("name", stop="\n") + "\nBorn:" + gen("born", stop="\n")
    )


def values(state):
    return [state["name"], state["born"]]


@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_serves_all_that_follows(stream):
    backend = Reciting(CARD, capabilities=TEXT)
    state = function(num_api_spec_tokens=100)(fields).run(backend=backend, stream=stream)
    assert [*values(state), state["job"]] == [" Ada.", " 1815.", " countess."]
    assert len(backend.asked) == 1
    assert (backend.asked[0].max_new_tokens, backend.asked[0].stop) == (128, ())
    assert state.get_meta_info("born")["speculated"] is True
    assert state.text() == function(fields).run(backend=Reciting(CARD, capabilities=TEXT)).text()


def test_where_the_program_says_something_else_it_is_asked_again():
    @function(num_api_spec_tokens=100)
    def program(s):
        s += "Name:" + gen("name", stop="\n") + "\nDied:" + gen("died", stop="\n")

    backend = Reciting(CARD, capabilities=TEXT)
    state = program.run(backend=backend, max_new_tokens=3)
    assert len(backend.asked) == 2
    assert backend.asked[0].max_new_tokens == 100
    assert state["died"] == CARD[len("Name: Ada.\nDied:") :].split("\n")[0]


def test_what_a_longer_text_cannot_tell_is_asked_for_as_it_is():
    @function(num_api_spec_tokens=10)
    def program(s):
        s += gen("no_stop", max_tokens=5) + gen("far", stop="countess", max_tokens=4)
        s += gen("two", n=1, stop="x", max_tokens=200)

    backend = Reciting(CARD, capabilities=TEXT)
    state = program.run(backend=backend)
    assert state["no_stop"] == "Name:"
    assert state["far"] == " Ada"  # not the ten that were tried ahead
    assert state["two"] == CARD[9:]
    assert [params.max_new_tokens for params in backend.asked] == [5, 10, 4, 200]


@settings(deadline=None, max_examples=60)
@given(
    st.text("ab\n.", max_size=60),
    st.lists(st.tuples(st.text("ab\n.", max_size=3), st.sampled_from(["\n", ".", "a", None])), max_size=5),
    st.integers(1, 40),
)
def test_the_text_is_the_same_with_and_without(text, pieces, ahead):
    def body(s):
        for number, (words, stop) in enumerate(pieces):
            s += words
            s += gen(f"v{number}", stop=stop, max_tokens=60)

    plain = function(body).run(backend=Reciting(text, capabilities=TEXT))
    fast = function(num_api_spec_tokens=ahead)(body).run(backend=Reciting(text, capabilities=TEXT))
    assert fast.text() == plain.text()


@pytest.mark.parametrize("can", [CHAT, PREFILL], ids=["plain", "prefill"])
def test_a_chat_says_a_whole_turn_at_once(can):
    backend = Reciting(CARD, capabilities=can)
    state = function(num_api_spec_tokens=100)(turns).run(backend=backend)
    assert values(state) == [" Ada.", " 1815."]
    assert len(backend.asked) == 1
    assert state.messages()[-1] == {"role": "assistant", "content": "Name: Ada.\nBorn: 1815."}


def test_reading_in_the_middle_of_a_turn_waits_for_what_it_needs():
    @function(num_api_spec_tokens=100)
    def program(s):
        s += user("Construct a character")
        with s.assistant():
            s += "Name:" + gen("name", stop="\n")
            assert s["name"] == " Ada."
            s += "\nBorn:"
            assert s.text().endswith("Name: Ada.\nBorn:")
            s += gen("born", stop="\n")
        s += user("Thanks") + assistant("")

    backend = Reciting(CARD, capabilities=CHAT)
    assert program.run(backend=backend)["born"] == " 1815."
    assert len(backend.asked) == 1


def test_a_turn_that_goes_another_way_is_asked_for_again():
    @function(num_api_spec_tokens=100)
    def program(s):
        s += user("Construct a character")
        with s.assistant():
            s += "Name:" + gen("name", stop="\n")
            assert s["name"] == " Ada."
            s += "\nDied:"
            s += gen("died", stop="\n")

    backend = Reciting(CARD, capabilities=CHAT)
    with pytest.raises(BackendError, match=r"does not say '\\nDied:' where the turn does|Name: Ada"):
        program.run(backend=backend)["died"]
    assert len(backend.asked) == 4


def test_a_turn_left_open_is_spoken_too():
    @function(num_api_spec_tokens=100)
    def program(s):
        s += user("hi")
        s += s.assistant("Name:" + gen("name", stop="\n"))
        s += user("and") + assistant_begin() + gen("rest")

    state = program.run(backend=Reciting(CARD, capabilities=CHAT))
    assert state["name"] == " Ada."
    assert state.messages()[-1] == {"role": "assistant", "content": CARD}


def test_generations_without_a_stop_end_where_the_program_goes_on():
    @function(num_api_spec_tokens=100)
    def program(s):
        s += user("?") + assistant("Name:" + gen("name") + "\nBorn:" + gen("born") + "\nJob:" + gen("job"))

    state = program.run(backend=Reciting(CARD, capabilities=CHAT))
    assert [*values(state), state["job"]] == [" Ada.", " 1815.", " countess.\nAnd so on and on."]


def test_a_chat_that_keeps_to_no_form_fails_after_three_tries():
    backend = Reciting("I would rather not.", capabilities=CHAT)
    state = function(num_api_spec_tokens=100)(turns).run(backend=backend)
    with pytest.raises(BackendError, match=r"does not say 'Name:' where the turn does, but 'I would"):
        state["name"]
    assert isinstance(state.error(), BackendError)
    assert len(backend.asked) == 3


def test_without_speculation_a_turn_that_has_begun_is_refused_before_anything_is_asked():
    backend = Reciting(CARD, capabilities=CHAT)
    state = function(turns).run(backend=backend)
    with pytest.raises(UnsupportedByBackend, match=r"first in its turn.*num_api_spec_tokens"):
        state["name"]
    assert backend.asked == []
    prefill = Reciting(CARD, capabilities=PREFILL)
    assert values(function(turns).run(backend=prefill)) == [" Ada.", " 1815."]
    assert len(prefill.asked) == 2


def test_what_is_no_conversation_is_refused_by_a_chat():
    @function
    def inside_user(s):
        s += user("a" + gen("b"))

    @function
    def outside(s):
        s += user("a") + gen("b")

    @function
    def stray(s):
        s += system("x") + "stray" + user("a") + assistant(gen("b"))

    for program, words in (
        (inside_user, "turns of the assistant"),
        (outside, "drop all roles"),
        (stray, "role"),
    ):
        backend = Scripted({"b": "b"}, capabilities=CHAT)
        with pytest.raises(UnsupportedByBackend, match=words):
            program.run(backend=backend).text()
        assert backend.calls == []


def test_a_text_without_turns_is_one_turn_of_the_user_for_a_chat():
    @function
    def program(s):
        s += "Q: why?\nA:" + gen("a") + "\nQ: how?\nA:" + gen("b")

    backend = Scripted({"a": " so", "b": " thus"}, capabilities=CHAT)
    assert program.run(backend=backend).text() == "Q: why?\nA: so\nQ: how?\nA: thus"
    assert backend.calls[1].prompt.messages == (("user", "Q: why?\nA: so\nQ: how?\nA:"),)


def test_what_was_sampled_otherwise_is_not_served():
    @function(num_api_spec_tokens=100)
    def program(s):
        s += (
            "Name:"
            + gen("name", stop="\n", temperature=0)
            + "\nBorn:"
            + gen("born", stop="\n", temperature=1)
        )

    backend = Reciting(CARD, capabilities=TEXT)
    assert values(program.run(backend=backend)) == [" Ada.", " 1815."]
    assert [params.temperature for params in backend.asked] == [0, 1]


def test_an_empty_stop_string_ends_nothing():
    @function(num_api_spec_tokens=8)
    def program(s):
        s += "x" + gen("a", stop="") + gen("b", stop=["", "."])

    state = program.run(backend=Scripted({"a": " Bo", "b": " is. So"}))
    assert (state["a"], state["b"]) == (" Bo", " is")
