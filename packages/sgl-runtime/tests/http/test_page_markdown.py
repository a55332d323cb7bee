# SPDX-License-Identifier: Apache-2.0
"""The page's Markdown against markdown-it's, and that a text may come in any division."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from typing import ClassVar

import pytest
from browsing import chromium, visiting
from markdown_it import MarkdownIt
from playwright.async_api import Page
from scripted import Script

pytestmark = pytest.mark.anyio
BLOCKS = [
    "# One",
    "### Three ###",
    "A line of text\nand another one.",
    "**bold *and* more**, *it*, _it_, __bold__, ~~old~~, `co*de*`, ``a ` b``, \\*no\\* mark",
    "snake_case_name and 2 * 3 * 4 and a**b",
    "[a link](https://a.example/b_c_d) and <https://c.example/>",
    "a < b && c > d <b>no markup</b>",
    "- one\n- two\n  on two lines\n- three",
    "* a\n* b\n    * deep `x`\n    * deeper\n* c",
    "1. first\n2. second\n   - with\n   - points\n3. third",
    "3) three\n4) four",
    "- a\n\n  another paragraph\n\n- b",
    "- with code\n  ```py\n  f(x)\n    g\n  ```\n- after",
    "> quoted *text*\n> on two lines\n>\n> - a list in it",
    "```python\ndef f(a):\n    return '**no**'  # <b>\n\n# not a heading\n```",
    "~~~\n```\nwithin\n~~~",
    "````md\n```\nwithin\n```\n````",
    "| a | b |\n|---|--:|\n| `1` | **2** |\n| 3 | x \\| y |",
    "---",
    "你好，**世界**。",
    "* * *",
]
MARKS = ("*", "**a", "_", "__a", "`", "```", "[", "[a](", "![", "~~", ">", "-", "|", ":-|", "<https://", "#")
SHOW = """async texts => {
  const { showMarkdown } = await import("/page/markdown.js");
  return texts.map(parts => {
    const container = document.createElement("div");
    for (const text of parts) showMarkdown(container, text);
    for (const caption of container.querySelectorAll("figcaption")) caption.remove();
    return container.innerHTML;
  });
}"""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def page(anyio_backend: str) -> AsyncIterator[Page]:
    async with chromium() as browser, visiting(browser, Script()) as visit:
        yield visit.page


class Skeleton(HTMLParser):
    """Tags and text, without what the two may do differently: wrappers, distances, and white space."""

    SAME: ClassVar = {"s": "del", **{f"h{i}": f"h{min(i + 1, 6)}" for i in range(1, 7)}}

    def __init__(self, html: str, *, ours: bool) -> None:
        super().__init__()
        self.seen: list[str] = []
        self._same = {} if ours else self.SAME
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("p", "figure", "div"):
            self.seen.append(f"<{self._same.get(tag, tag)}{dict(attrs).get('href') or ''}>")

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("p", "figure", "div", "hr"):
            self.seen.append(f"</{self._same.get(tag, tag)}>")

    def handle_data(self, data: str) -> None:
        self.seen += data.split()


async def test_it_is_what_markdown_it_makes_of_it(page: Page) -> None:
    reference = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    texts = BLOCKS + [f"{a}\n\n{b}" for a, b in itertools.permutations(BLOCKS, 2) if not both_lists(a, b)]
    ours = await page.evaluate(SHOW, [[text] for text in texts])
    for text, html in zip(texts, ours, strict=True):
        expected = reference.render(text)
        seen = Skeleton(html, ours=True).seen, Skeleton(expected, ours=False).seen
        assert seen[0] == seen[1], f"{text}\n{html}\n{expected}"
    assert len(texts) > 300


def both_lists(a: str, b: str) -> bool:
    """They would be one list, or, behind one, a paragraph of its last item."""
    return a[:2] in ("- ", "* ", "1.", "3)") and b[:2] in ("- ", "* ", "1.", "3)")


async def test_a_text_that_grows_looks_as_if_it_had_come_at_once(page: Page) -> None:
    rng = random.Random(0)
    whole = ["\n\n".join(rng.sample(BLOCKS, 6)) for _ in range(20)]
    grown = [[text[:end] for end in sorted(rng.sample(range(len(text)), 30))] + [text] for text in whole]
    at_once = await page.evaluate(SHOW, [[text] for text in whole])
    assert await page.evaluate(SHOW, grown) == at_once
    # Nor does it matter what was there before.
    changed = [[before, text] for before, text in zip(whole, whole[1:] + whole[:1], strict=True)]
    assert await page.evaluate(SHOW, changed) == at_once[1:] + at_once[:1]


async def test_a_hostile_text_takes_no_time(page: Page) -> None:
    for mark in MARKS:
        texts = [mark * 20_000, f"{mark} " * 2_000, f"{mark}\n" * 2_000, f"  {mark}\n" * 2_000]
        await page.evaluate(SHOW, [[text] for text in texts])
