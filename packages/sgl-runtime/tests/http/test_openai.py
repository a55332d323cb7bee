# SPDX-License-Identifier: Apache-2.0
"""The OpenAI endpoints, event by event and field by field."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from scripted import BOS, EOS, Script, byte_tokenizer, logprob
from served import served, settle
from tokenizers.processors import TemplateProcessing

from sgl_runtime.messages import Delta, Logprobs, LogprobSpec, StoppedByLength
from sgl_runtime.text.tokenizer import Tokenizer

pytestmark = pytest.mark.anyio


def chat(content: Any = "a", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "temperature": 0, **fields}


def completion(prompt: Any = "hello", **fields: Any) -> dict[str, Any]:
    return {"prompt": prompt, "temperature": 0, **fields}


class TestCompletions:
    path = "/v1/completions"

    async def test_answer(self) -> None:
        async with served() as server:
            answer = await server.answer(self.path, completion(n=2))
        assert answer["id"].startswith("cmpl-")
        assert (answer["object"], answer["model"]) == ("text_completion", "tiny")
        choice = {"text": "HELLO", "logprobs": None, "finish_reason": "stop"}
        assert answer["choices"] == [{"index": 0, **choice}, {"index": 1, **choice}]
        assert answer["usage"] == {
            "prompt_tokens": 5,
            "completion_tokens": 12,
            "total_tokens": 17,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    async def test_prompts_in_all_forms(self) -> None:
        async with served() as server:
            for prompt, texts in (
                (["a", "b"], ["A", "B"]),
                ([97, 98], ["AB"]),
                ([[97], [98]], ["A", "B"]),
            ):
                answer = await server.answer(self.path, completion(prompt))
                assert [choice["text"] for choice in answer["choices"]] == texts
                assert [choice["index"] for choice in answer["choices"]] == list(range(len(texts)))
                assert answer["usage"]["prompt_tokens"] == 2

    async def test_parameters_arrive(self) -> None:
        script = Script()
        body = completion(
            max_tokens=7,
            min_tokens=2,
            temperature=0.5,
            top_p=0.5,
            top_k=3,
            min_p=0.1,
            frequency_penalty=1,
            presence_penalty=-1,
            repetition_penalty=1.5,
            seed=5,
            stop=["x", "y"],
            stop_token_ids=[9],
            ignore_eos=True,
            logit_bias={"5": -100},
        )
        async with served(script) as server:
            await server.answer(self.path, body)
            await server.answer("/v1/chat/completions", {**chat(), **_without(body, "prompt")})
        first, second = (generate.sampling for generate in script.generates)
        assert first == second
        assert (first.max_new_tokens, first.min_new_tokens, first.temperature) == (7, 2, 0.5)
        assert (first.top_p, first.top_k, first.min_p, first.seed) == (0.5, 3, 0.1, 5)
        assert (first.frequency_penalty, first.presence_penalty, first.repetition_penalty) == (1, -1, 1.5)
        assert (first.stop, first.stop_token_ids, first.ignore_eos) == ((b"x", b"y"), (9,), True)
        assert first.logit_bias == ((5, -100.0),)

    async def test_stop(self) -> None:
        async with served() as server:
            answer = await server.answer(self.path, completion(stop=["LL"]))
            assert (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == ("HE", "stop")
            kept = await server.answer(self.path, completion(stop=["LL"], include_stop_str_in_output=True))
            assert kept["choices"][0]["text"] == "HELL"
            cut = await server.answer(self.path, completion(max_tokens=1))
            assert (cut["choices"][0]["text"], cut["choices"][0]["finish_reason"]) == ("H", "length")

    async def test_stream(self) -> None:
        async with served(Script(per_step=2)) as server:
            events = await server.events(self.path, completion(stream=True))
            assert [event["choices"][0]["text"] for event in events] == ["HE", "LL", "O"]
            assert [event["choices"][0]["finish_reason"] for event in events] == [None, None, "stop"]
            assert len({event["id"] for event in events}) == 1
            assert all("usage" not in event for event in events)
            events = await server.events(
                self.path, completion(["ab", "cd"], n=2, stream=True, stream_options={"include_usage": True})
            )
        texts = ["", "", "", ""]
        for event in events[:-1]:
            assert event["usage"] is None
            texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
        assert texts == ["AB", "AB", "CD", "CD"]
        assert events[-1]["choices"] == []
        assert events[-1]["usage"]["total_tokens"] == 4 + 12

    async def test_echo(self) -> None:
        async with served(Script(per_step=2)) as server:
            for prompt in ("hello", list(b"hello")):
                answer = await server.answer(self.path, completion(prompt, echo=True))
                assert answer["choices"][0]["text"] == "helloHELLO"
            events = await server.events(self.path, completion(echo=True, n=2, stream=True))
            texts = ["", ""]
            for event in events:
                texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
            assert texts == ["helloHELLO"] * 2
            scored = await server.answer(self.path, completion(echo=True, max_tokens=0, logprobs=0))
        assert scored["choices"][0]["text"] == "hello"
        assert scored["choices"][0]["logprobs"]["tokens"] == list("hello")
        assert scored["choices"][0]["logprobs"]["top_logprobs"] is None

    async def test_logprobs(self) -> None:
        script = Script()
        async with served(script) as server:
            answer = await server.answer(self.path, completion("a世", logprobs=2))
        assert script.generates[0].logprobs == LogprobSpec(start=-1, top=2), (
            "none of a prompt that is not shown"
        )
        logprobs = answer["choices"][0]["logprobs"]
        data = [65, *"世".encode(), EOS]
        spelled = ["A", "bytes:\\xe4", "bytes:\\xb8", "bytes:\\x96", "<eos>"]
        assert logprobs["tokens"] == spelled
        assert logprobs["token_logprobs"] == [logprob(token) for token in data]
        assert logprobs["text_offset"] == [0, 1, 1, 1, 2]
        assert [len(row) for row in logprobs["top_logprobs"]] == [2] * 5
        assert logprobs["top_logprobs"][0] == {"A": logprob(65), "B": logprob(65) - 1}

    async def test_the_token_itself_is_among_the_top(self) -> None:
        script = Script(per_step=None)
        async with served(script) as server:
            reading = asyncio.create_task(server.answer(self.path, completion(logprobs=1)))
            await settle()
            unlikely = Logprobs([65], [-5.0], [[(66, -0.5)]])
            script.say(Delta(script.generates[0].rid, [65], StoppedByLength(1), output_logprobs=unlikely))
            answer = await reading
        assert answer["choices"][0]["logprobs"]["top_logprobs"] == [{"B": -0.5, "A": -5.0}]

    async def test_offsets_go_on_behind_an_echo(self) -> None:
        async with served() as server:
            answer = await server.answer(self.path, completion("é!", echo=True, logprobs=1))
        logprobs = answer["choices"][0]["logprobs"]
        assert answer["choices"][0]["text"] == "é!é!"
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["top_logprobs"][0] is None
        assert logprobs["text_offset"] == [0, 0, 1, 2, 2, 3, 4]

    async def test_a_begin_of_sequence_token_has_no_width(self) -> None:
        async with served(tokenizer=_with_bos()) as server:
            answer = await server.answer(self.path, completion("ab", echo=True, logprobs=0))
        logprobs = answer["choices"][0]["logprobs"]
        assert logprobs["tokens"][:3] == ["<bos>", "a", "b"]
        assert logprobs["text_offset"][:3] == [0, 0, 1]
        assert answer["choices"][0]["text"].startswith("ab")

    async def test_tokens_that_are_not_shown_have_no_width(self) -> None:
        script = Script(answer=lambda _: [*b"a", EOS, *b"b"])
        async with served(script) as server:
            body = completion(logprobs=0, ignore_eos=True, max_tokens=3)
            for skip, text, offsets in ((True, "ab", [0, 1, 1]), (False, "a<eos>b", [0, 1, 6])):
                answer = await server.answer(self.path, {**body, "skip_special_tokens": skip})
                assert answer["choices"][0]["text"] == text
                assert answer["choices"][0]["logprobs"]["text_offset"] == offsets

    async def test_an_answer_begins_behind_a_prompt_that_is_no_whole_text(self) -> None:
        async with served() as server:
            answer = await server.answer(
                self.path, completion([97, 0xE4], echo=True, logprobs=0, max_tokens=1)
            )
        assert answer["choices"][0]["text"] == "a\ufffdA"
        assert answer["choices"][0]["logprobs"]["text_offset"] == [0, 1, 2]

    async def test_what_is_cached_is_what_was_before_the_request(self) -> None:
        """Two samples that echo and score the prompt: a request ahead of them fills the cache."""
        async with served() as server:
            for cached in (0, 4):
                answer = await server.answer(self.path, completion(echo=True, logprobs=0, n=2))
                assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": cached}

    async def test_streamed_logprobs_are_those_of_the_answer(self) -> None:
        body = completion(["hello", "世"], echo=True, logprobs=2, n=2)
        async with served(Script(per_step=1)) as server:
            whole = await server.answer(self.path, body)
            events = await server.events(self.path, {**body, "stream": True})
        for choice in whole["choices"]:
            mine = [e["choices"][0] for e in events if e["choices"][0]["index"] == choice["index"]]
            for name, values in choice["logprobs"].items():
                assert [value for event in mine for value in event["logprobs"][name]] == values
            assert "".join(event["text"] for event in mine) == choice["text"]
        assert len(events) > 8

    async def test_best_of_returns_the_likeliest_of_each_prompt(self) -> None:
        script = Script(per_step=None)
        body = completion(["a", "b"], best_of=3, n=2, temperature=1, seed=0, max_tokens=2)
        async with served(script) as server:
            reading = asyncio.create_task(server.answer(self.path, body))
            await settle()
            values = [(-2.0, -2.0), (-0.5, -0.7), (-0.5,), (-9.0, -9.0), (-3.0, -3.0), (-4.0, -1.0)]
            for generate, value in zip(script.generates, values, strict=True):
                assert generate.logprobs == LogprobSpec()
                tokens = [65 + generate.sampling.seed] * len(value)
                logprobs = Logprobs(tokens, list(value), [[] for _ in value])
                finish = StoppedByLength(len(value))
                script.say(Delta(generate.rid, tokens, finish, output_logprobs=logprobs))
            answer = await reading
        assert [choice["text"] for choice in answer["choices"]] == ["C", "BB", "CC", "BB"]
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
        assert {choice["logprobs"] for choice in answer["choices"]} == {None}
        assert answer["usage"]["completion_tokens"] == 11, "all of them were computed"

    async def test_usage_with_every_event(self) -> None:
        options = {"include_usage": True, "continuous_usage_stats": True}
        body = completion(["ab", "cd"], stream=True, stream_options=options)
        async with served(Script(per_step=1)) as server:
            events = await server.events(self.path, body)
            counts = [event["usage"]["completion_tokens"] for event in events]
            assert (counts[0], counts[-2:]) == (1, [6, 6])
            assert counts == sorted(counts)
            assert {event["usage"]["prompt_tokens"] for event in events} == {4}
            body["stream_options"] = {"continuous_usage_stats": True}
            assert all(event["choices"] for event in await server.events(self.path, body))


class TestChat:
    path = "/v1/chat/completions"

    async def test_answer(self) -> None:
        script = Script(answer=lambda _: [*"Grüße".encode(), EOS])
        async with served(script) as server:
            answer = await server.answer(self.path, chat("hi", n=2))
        assert bytes(script.generates[0].tokens) == b"<|user|>hi<|end|>\n<|assistant|>"
        assert answer["id"].startswith("chatcmpl-")
        assert (answer["object"], answer["model"]) == ("chat.completion", "tiny")
        choice = {
            "message": {"role": "assistant", "content": "Grüße"},
            "logprobs": None,
            "finish_reason": "stop",
        }
        assert answer["choices"] == [{"index": 0, **choice}, {"index": 1, **choice}]
        assert answer["usage"]["prompt_tokens"] == len(script.generates[0].tokens)
        assert answer["usage"]["completion_tokens"] == 2 * 8

    async def test_the_prompt_of_n_samples_counts_once(self) -> None:
        script = Script()
        async with served(script) as server:
            for cached in (0, 73):
                answer = await server.answer(self.path, chat("x" * 45, n=3, max_tokens=4))
                assert answer["usage"]["prompt_tokens"] == 74
                assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": cached}
        assert [generate.sampling.max_new_tokens for generate in script.generates] == [4, 4, 4] * 2

    async def test_defaults(self) -> None:
        script = Script()
        async with served(script) as server:
            await server.answer(self.path, _without(chat(), "temperature"))
        assert script.generates[0].sampling.temperature == 0.7

    async def test_messages_of_all_kinds(self) -> None:
        script = Script()
        messages = [
            {"role": "developer", "content": "be nice"},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": "three", "name": "bot"},
            {"role": "user", "content": ""},
        ]
        async with served(script) as server:
            await server.answer(self.path, {"messages": messages})
        assert bytes(script.generates[0].tokens).decode() == (
            "<|system|>be nice<|end|>\n<|user|>one\ntwo<|end|>\n<|assistant|>three<|end|>\n"
            "<|user|><|end|>\n<|assistant|>"
        )

    async def test_the_template_writes_its_own_begin_of_sequence(self) -> None:
        script = Script()
        template = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
        async with served(script, tokenizer=_with_bos(template)) as server:
            await server.answer(self.path, chat("hi"))
        assert script.generates[0].tokens == [BOS, *b"hi"]

    async def test_stream(self) -> None:
        async with served(Script(per_step=2, answer=lambda _: [*b"hello", EOS])) as server:
            events = await server.events(self.path, chat(stream=True))
            deltas = [event["choices"][0]["delta"] for event in events]
            assert deltas == [
                {"role": "assistant", "content": ""},
                {"content": "he"},
                {"content": "ll"},
                {"content": "o"},
                {},
            ]
            assert [event["choices"][0]["finish_reason"] for event in events] == [None] * 4 + ["stop"]
            assert {event["object"] for event in events} == {"chat.completion.chunk"}
            events = await server.events(
                self.path, chat(n=2, stream=True, stream_options={"include_usage": True})
            )
        contents = ["", ""]
        for event in events[:-1]:
            contents[event["choices"][0]["index"]] += event["choices"][0]["delta"].get("content", "")
        assert contents == ["hello", "hello"]
        assert events[-1]["choices"] == []
        assert events[-1]["usage"]["completion_tokens"] == 12

    async def test_logprobs_of_every_token_are_its_own(self) -> None:
        script = Script(answer=lambda _: [*"é!".encode(), EOS], per_step=1)
        body = chat(logprobs=True, top_logprobs=2)
        async with served(script) as server:
            answer = await server.answer(self.path, body)
            events = await server.events(self.path, {**body, "stream": True})
        entries = answer["choices"][0]["logprobs"]["content"]
        assert [entry["token"] for entry in entries] == ["\\xc3", "\\xa9", "!", "<eos>"]
        assert [entry["bytes"] for entry in entries] == [[0xC3], [0xA9], [0x21], list(b"<eos>")]
        assert [entry["logprob"] for entry in entries] == [logprob(t) for t in (0xC3, 0xA9, 0x21, EOS)]
        assert [[top["token"] for top in entry["top_logprobs"]] for entry in entries] == [
            ["\\xc3", "\\xc4"],
            ["\\xa9", "\\xaa"],
            ["!", '"'],
            ["<eos>", "<bos>"],
        ]
        parts = [event["choices"][0]["logprobs"] for event in events]
        assert [entry for part in parts if part is not None for entry in part["content"]] == entries

    async def test_what_the_template_ends_answers_with_ends_them(self) -> None:
        script = Script()
        async with served(script) as server:
            assert server.api.chat_template is not None
            server.api.chat_template.stop = ("<eos>", "<|end|>")
            await server.answer(self.path, chat(stop="x"))
            await server.answer("/v1/completions", completion(stop="x"))
        chatted, completed = (generate.sampling.stop for generate in script.generates)
        assert chatted == (b"x", b"<|end|>"), "<eos> ends every text anyway"
        assert completed == (b"x",)


async def test_models() -> None:
    async with served(model_path="hub/tiny") as server:
        answer = (await server.http.get("/v1/models")).json()
        (card,) = answer["data"]
        assert (card["id"], card["object"], card["owned_by"]) == ("hub/tiny", "model", "sgl")
        assert (await server.http.get("/v1/models/hub/tiny")).json() == card
        assert (await server.http.get("/v1/models/other")).status_code == 404


async def test_an_answers_id_is_what_abort_takes() -> None:
    script = Script(per_step=None)
    async with served(script) as server:
        reading = asyncio.create_task(server.events("/v1/completions", completion(["a", "b"], stream=True)))
        await settle()
        name = min(server.api.client._flights._by_name, key=len)  # the others are those of the two prompts
        script.say(*(Delta(generate.rid, [65]) for generate in script.generates))
        await settle()
        assert await server.answer("/abort_request", {"rid": name}) == {"aborted": 2}
        events = await reading
    assert events[0]["id"] == name
    assert [event["choices"][0]["finish_reason"] for event in events[-2:]] == ["abort", "abort"]


def _with_bos(template: str | None = None) -> Tokenizer:
    """A tokenizer that puts <bos> before every text."""
    tokenizer = byte_tokenizer(template=template)
    tokenizer._backend.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    return tokenizer


def _without(body: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != field}
