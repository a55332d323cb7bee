# SPDX-License-Identifier: Apache-2.0
"""The page as a person uses it, in a browser, on an engine that follows a script."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from browsing import Visit, chromium, visiting
from playwright.async_api import Browser, expect
from scripted import EOS, Script, byte_tokenizer
from served import TOOL_TEMPLATE

from sgl_runtime.messages import Generate, Load, StoppedByLength, StoppedByToken

pytestmark = pytest.mark.anyio
END: dict[str, Any] = {"finish": StoppedByToken(EOS)}
PHONE = {"viewport": {"width": 375, "height": 700}, "has_touch": True}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


def prompt_of(generate: Generate) -> str:
    return bytes(token for token in generate.tokens if token < 256).decode()


def by_hand() -> Script:
    return Script(per_step=None)


def saying(text: str) -> Script:
    return Script(answer=lambda generate: [*text.encode(), EOS], per_step=7)


async def rule(visit: Visit, kind: str, text: str) -> None:
    await visit.page.select_option("#kind", kind)
    await visit.page.fill("#rule", text)


async def test_a_conversation_streams_and_is_remembered(browser: Browser) -> None:
    async with visiting(browser, by_hand()) as visit:
        page = visit.page
        await expect(page.locator("h1")).to_have_text("tiny")
        await page.fill("#system", "Be brief.")
        first = await visit.say("Hello?")
        assert prompt_of(first) == "<|system|>Be brief.<|end|>\n<|user|>Hello?<|end|>\n<|assistant|>"
        answers = page.locator("article.assistant")
        for part, so_far in (("Good", "Good"), (" day", "Good day")):
            visit.answer(first, part)
            await expect(answers.locator(".body")).to_have_text(so_far)
            await expect(answers).to_have_attribute("aria-busy", "true")
        visit.answer(first, "!", **END)
        await expect(answers).not_to_have_attribute("aria-busy", "true")
        await expect(answers.locator(".note")).to_contain_text("9 tokens · first token after")
        await expect(answers.locator(".note")).to_contain_text(f"{len(first.tokens)} in the prompt")
        assert prompt_of(await visit.say("And?")).endswith(
            "<|user|>Hello?<|end|>\n<|assistant|>Good day!<|end|>\n<|user|>And?<|end|>\n<|assistant|>"
        )
        await visit.page.reload()
        await expect(page.locator("article .body")).to_have_text(["Hello?", "Good day!"])
        await expect(page.locator("#message")).to_have_value("And?")
        await expect(page.locator("#system")).to_have_value("Be brief.")


async def test_stop_ends_the_request_and_keeps_what_there_is(browser: Browser) -> None:
    async with visiting(browser, by_hand()) as visit:
        page = visit.page
        asked = await visit.say("Hello?")
        visit.answer(asked, "Good")
        await expect(page.locator("article.assistant .body")).to_have_text("Good")
        await page.click("#stop")
        await visit.until(lambda: asked.rid in visit.script.aborts)
        await expect(page.locator("article.assistant .note")).to_contain_text("stopped")
        await expect(page.locator("#send")).to_be_visible()
        # Before the first word nothing is kept, and the message is in its field again.
        asked = await visit.say("More?")
        await page.keyboard.press("Escape")
        await visit.until(lambda: asked.rid in visit.script.aborts)
        await expect(page.locator("#message")).to_have_value("More?")
        await expect(page.locator("article")).to_have_count(2)
        await expect(page.locator("#problem")).to_be_hidden()


async def test_settings_are_fields_of_the_request(browser: Browser) -> None:
    async with visiting(browser, by_hand()) as visit:
        bare = (await visit.say("a")).sampling
        assert (bare.temperature, bare.top_p, bare.constraint) == (0.7, 1.0, None)
        await visit.page.click("#stop")
        await visit.page.click("summary")
        given: dict[str, float] = {
            "temperature": 0.5, "top_p": 0.25, "max_tokens": 17, "seed": 42, "top_k": 5, "min_p": 0.125,
            "frequency_penalty": -1, "presence_penalty": 1.5, "repetition_penalty": 1.25,
        }  # fmt: skip
        for name, value in given.items():
            await visit.page.fill(f"#{name}", str(value))
        await visit.page.fill("#stop_strings", "END\n###")
        sampling = (await visit.say("a")).sampling
        assert sampling.max_new_tokens == given.pop("max_tokens")
        assert {name: getattr(sampling, name) for name in given} == given
        assert {b"END", b"###"} <= {*sampling.stop}
        await visit.page.click("#stop")
        await visit.page.click("#defaults")
        assert (await visit.say("a")).sampling.temperature == 0.7


async def test_what_the_server_refuses_it_says_in_its_words_at_the_field(browser: Browser) -> None:
    async with visiting(browser, saying('{"a": 1}')) as visit:
        page = visit.page
        await rule(visit, "json_schema", '{"type": "nothing"}')
        await page.fill("#message", "JSON, please")
        async with page.expect_response("**/v1/chat/completions") as refused:
            await page.press("#message", "Enter")
        error = (await (await refused.value).json())["error"]
        assert error["param"] == "json_schema"
        await expect(page.locator("#problem")).to_have_text(error["message"])
        await expect(page.locator("#rule")).to_have_accessible_description(error["message"])
        await expect(page.locator("#rule")).to_have_attribute("aria-invalid", "true")
        await expect(page.locator("#message")).to_have_value("JSON, please")
        await expect(page.locator("article")).to_have_count(0)
        schema = '{"type": "object", "properties": {"a": {"type": "integer"}}}'
        await page.fill("#rule", schema)
        await expect(page.locator("[aria-invalid]")).to_have_count(0)
        asked = await visit.say("JSON, please")
        assert (asked.sampling.constraint.kind, asked.sampling.constraint.text) == ("json_schema", schema)
        await expect(page.locator("article.assistant code")).to_have_text('{"a": 1}')
        await expect(page.locator("#problem")).to_be_hidden()


@pytest.mark.parametrize(("kind", "text"), [("regex", "[ab]{2,3}"), ("ebnf", 'root ::= "a" | "b"')])
async def test_rules_of_other_kinds(browser: Browser, kind: str, text: str) -> None:
    async with visiting(browser, saying("ab")) as visit:
        await rule(visit, kind, text)
        asked = await visit.say("a")
        assert (asked.sampling.constraint.kind, asked.sampling.constraint.text) == (kind, text)


async def test_an_answer_that_is_refused_does_not_cost_the_one_before(browser: Browser) -> None:
    async with visiting(browser, saying("first")) as visit:
        page = visit.page
        await visit.say("a")
        await expect(page.locator("article.assistant .note")).not_to_be_empty()
        await page.fill("#temperature", "-1")
        await page.get_by_role("button", name="Again").click()
        await expect(page.locator("#problem")).to_contain_text("temperature")
        await expect(page.locator("#temperature")).to_have_accessible_description(re.compile("temperature"))
        await expect(page.locator("article .body")).to_have_text(["a", "first"])
        await page.fill("#temperature", "0")
        await page.get_by_role("button", name="Again").click()
        await visit.until(lambda: len(visit.script.generates) == 2)
        assert visit.script.generates[0].tokens == visit.script.generates[1].tokens
        await page.get_by_role("button", name="Edit").click()
        await expect(page.locator("#message")).to_have_value("a")
        await expect(page.locator("article")).to_have_count(0)


async def test_an_answer_that_was_cut_goes_on(browser: Browser) -> None:
    async with visiting(browser, by_hand()) as visit:
        page = visit.page
        visit.answer(await visit.say("Hello?"), "Good", finish=StoppedByLength(4))
        await expect(page.locator("article.assistant .note")).to_contain_text("cut at its longest")
        await page.get_by_role("button", name="Go on").click()
        await visit.until(lambda: len(visit.script.generates) == 2)
        asked = visit.script.generates[1]
        assert prompt_of(asked) == "<|user|>Hello?<|end|>\n<|assistant|>Good"
        await expect(page.locator("#stop")).to_be_focused()
        visit.answer(asked, " day", **END)
        await expect(page.locator("article.assistant .body")).to_have_text("Good day")
        await expect(page.locator("#message")).to_be_focused()
        # What is refused leaves it as it is.
        await page.fill("#top_p", "2")
        await page.get_by_role("button", name="Go on").click()
        await expect(page.locator("#problem")).to_contain_text("top_p")
        await expect(page.locator("article .body")).to_have_text(["Hello?", "Good day"])


async def test_looking_at_figures_is_not_logged(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="sgl_runtime.http")
    async with visiting(browser, Script()) as visit:
        await expect(visit.page.locator("#about")).not_to_be_empty()
        await visit.page.request.get(visit.server.url + "/server_info")
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("access")]
    assert sum("/get_model_info" in line for line in lines) == 1
    assert sum("/server_info" in line for line in lines) == 1


async def test_an_engine_that_dies_is_told_below_what_it_had_said(browser: Browser) -> None:
    async with visiting(browser, by_hand()) as visit:
        visit.answer(await visit.say("Hello?"), "Good")
        await expect(visit.page.locator("article.assistant .body")).to_have_text("Good")
        visit.server.died.set_result("replica0 was killed by SIGKILL")
        await expect(visit.page.locator("#problem")).to_have_text("replica0 was killed by SIGKILL")
        await expect(visit.page.locator("article.assistant .body")).to_have_text("Good")


async def test_figures_are_those_of_the_engine(browser: Browser) -> None:
    async with visiting(browser, Script(replicas=2, per_step=None)) as visit:
        figure = visit.page.locator
        await expect(figure("#about")).to_contain_text("context 8,192")
        load = {
            "slots": 1000,
            "slots_used": 300,
            "slots_cached": 200,
            "prompt_tokens": 50,
            "cached_tokens": 30,
        }
        visit.script.say(replica=0, load=Load(running=2, waiting=1, generated_tokens=0, **load))
        visit.script.say(replica=1, load=Load(running=1, waiting=0, generated_tokens=5000, **load))
        await visit.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        await expect(figure("[data-figure=running]")).to_have_text("3")
        await expect(figure("[data-figure=waiting]")).to_have_text("1")
        await expect(figure("[data-figure=used]")).to_have_text("30%")
        await expect(figure("[data-figure=cached]")).to_have_text("20%")
        await expect(figure("[data-figure=hits]")).to_have_text("60%")
        await expect(figure("[data-figure=speed]")).not_to_have_text("0")
        # While it works, it is looked at again without being told.
        visit.script.say(replica=0, load=Load(running=0, generated_tokens=10, **load))
        await expect(figure("[data-figure=running]")).to_have_text("1")
        await expect(figure("#load")).to_contain_text("1 running")


async def test_what_a_model_writes_is_text_and_loads_nothing(browser: Browser) -> None:
    hostile = (
        "<img src=x onerror=alert(1)> ![seen](https://a.example/x.png) [bad](javascript:alert(1)) "
        "**<script>alert(1)</script>** [good](https://b.example/) <https://c.example/d>"
    )
    async with visiting(browser, saying(hostile)) as visit:
        await visit.say("<b>hello</b>")
        body = visit.page.locator("article.assistant .body")
        await expect(visit.page.locator("article.assistant .note")).not_to_be_empty()
        await expect(visit.page.locator("article.user .body")).to_have_text("<b>hello</b>")
        assert await body.locator("img, script").count() == 0
        links = await body.locator("a").evaluate_all("all => all.map(a => [a.textContent, a.href, a.rel])")
        kept = "noopener noreferrer"
        assert links == [
            ["seen", "https://a.example/x.png", kept],
            ["good", "https://b.example/", kept],
            ["https://c.example/d", "https://c.example/d", kept],
        ]
        assert "<script>alert(1)</script>" in (await body.inner_text())


async def test_conversations_are_kept_apart(browser: Browser) -> None:
    async with visiting(browser, Script()) as visit:
        page = visit.page
        for text in ("one", "two"):
            await visit.say(text)
            await expect(page.locator("article.assistant .note")).not_to_be_empty()
            await page.click("#new")
            await expect(page.locator("article")).to_have_count(0)
        assert "one" not in prompt_of(visit.script.generates[1])
        await expect(page.locator("#history .title")).to_have_text(["two", "one"])
        await page.get_by_role("button", name="one", exact=True).click()
        await expect(page.locator("article.user .body")).to_have_text("one")
        await page.get_by_role("button", name="Delete “one”").click()
        await expect(page.locator("#history .title")).to_have_text(["two"])
        await expect(page.locator("article")).to_have_count(0)


async def test_without_a_chat_template_a_text_is_gone_on_with(browser: Browser) -> None:
    async with visiting(browser, saying(" there was"), tokenizer=byte_tokenizer(template=None)) as visit:
        page = visit.page
        await expect(page.locator("#mode-why")).to_be_visible()
        await expect(page.get_by_label("Chat")).to_be_disabled()
        await expect(page.locator("#system")).to_be_hidden()
        assert prompt_of(await visit.say("Once")) == "Once"
        await expect(page.locator("article.assistant .note")).not_to_be_empty()
        await page.get_by_role("button", name="Go on").click()
        await expect(page.locator("article.assistant .body")).to_have_text(" there was there was")
        assert prompt_of(visit.script.generates[1]) == "Once there was"
        await expect(page.locator("#log")).not_to_have_class(re.compile("busy"))
        assert prompt_of(await visit.say(", and ")) == "Once there was there was, and "
        parts = ["Once", " there was there was", ", and ", " there was"]
        await expect(page.locator("article .body")).to_have_text(parts)


async def test_a_model_with_a_template_can_be_given_plain_text(browser: Browser) -> None:
    async with visiting(browser, Script()) as visit:
        await visit.page.get_by_label("Text", exact=True).check()
        asked = await visit.say("Once")
        assert (prompt_of(asked), asked.sampling.max_new_tokens > 1000) == ("Once", True)


async def test_reasoning_is_folded_away(browser: Browser) -> None:
    tokenizer = byte_tokenizer(template=TOOL_TEMPLATE)
    script = saying("hm, hm</think>Yes.")
    async with visiting(browser, script, tokenizer=tokenizer, reasoning_parser="deepseek-r1") as visit:
        await visit.say("a")
        answer = visit.page.locator("article.assistant")
        await expect(answer.locator(".body")).to_have_text("Yes.")
        await expect(answer.locator("details p")).to_be_hidden()
        await answer.locator("summary").click()
        await expect(answer.locator("details p")).to_have_text("hm, hm")


class TestKey:
    async def test_the_browser_asks_once(self, browser: Browser) -> None:
        person = {"http_credentials": {"username": "any", "password": "the key"}}
        async with visiting(browser, saying("Yes."), person=person, api_key="the key") as visit:
            await visit.say("a")
            await expect(visit.page.locator("article.assistant .body")).to_have_text("Yes.")
            await expect(visit.page.locator("#key")).to_be_hidden()

    async def test_the_page_asks_where_the_browsers_answer_does_not_arrive(self, browser: Browser) -> None:
        person = {"http_credentials": {"username": "any", "password": "the key"}}
        async with visiting(browser, saying("Yes."), person=person, api_key="the key") as visit:
            page = visit.page

            async def without_proof(route: Any) -> None:
                headers = {k: v for k, v in route.request.headers.items() if k != "x-requested-with"}
                await route.continue_(headers=headers)

            await page.route(re.compile("/(v1/|get_model_info|server_info)"), without_proof)
            await visit.arrive()
            await expect(page.locator("#key-field")).to_be_focused()
            await expect(page.locator("#problem")).to_contain_text("the key is missing or wrong")
            await page.fill("#key-field", "the kéy")
            await page.get_by_role("button", name="Use it").click()
            await expect(page.locator("#key")).to_be_visible()
            await page.fill("#key-field", "the key")
            await page.get_by_role("button", name="Use it").click()
            await expect(page.locator("#key")).to_be_hidden()
            await visit.say("a")
            await expect(page.locator("article.assistant .body")).to_have_text("Yes.")


MARKDOWN = """# One
Text with **bold *both* it**, `code`, _em_ and [a link](https://a.example/b).

1. first
2. second
   - nested

   more of it

> quoted `x`

```python
def f(): return "<b>"
```

| a | b |
|---|--:|
| 1 | 2 |

snake_case_name 2 * 3 * 4 https://a.example/c.

---
end"""


@pytest.mark.parametrize("person", [{}, {"color_scheme": "dark"}, PHONE], ids=["light", "dark", "phone"])
async def test_axe_finds_nothing(browser: Browser, person: dict[str, Any]) -> None:
    async with visiting(browser, saying(MARKDOWN), person=person) as visit:
        page = visit.page
        await visit.say("a")
        await expect(page.locator("article.assistant .note")).not_to_be_empty()
        for opened in ("false", "true"):
            if await page.locator("#toggle").get_attribute("aria-expanded") != opened:
                await page.click("#toggle")
            found = await Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        await page.keyboard.press("Escape")
        await expect(page.locator("#panel")).to_be_visible(visible=person is not PHONE)
