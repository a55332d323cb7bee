# SPDX-License-Identifier: Apache-2.0
"""A person at the page: a Chromium of this machine, and a server behind it that follows a script.

Whatever a test does, the page must ask nobody but its own server and must not complain to the console.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect
from scripted import Script
from served import ROOMY, Listening, listening

from sgl_runtime.messages import Delta, Generate

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT_MS = 30_000
expect.set_options(timeout=WAIT_MS)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(
            "no Chromium on this machine: install the package chromium, or say where one is in CHROMIUM"
        )
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path)
        try:
            yield browser
        finally:
            await browser.close()


class Visit:
    """The page, open; `refused`: answers that are errors, which the console reports."""

    def __init__(self, page: Page, server: Listening, script: Script) -> None:
        self.page = page
        self.server = server
        self.script = script
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._hear)

    def _hear(self, message: Any) -> None:
        # What the server refuses the page shows, and Chromium reports as well.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    async def arrive(self) -> None:
        await self.page.goto(self.server.url + "/")

    async def say(self, text: str) -> Generate:
        """Send a message; what the engine is asked for."""
        count = len(self.script.generates)
        await self.page.fill("#message", text)
        await self.page.press("#message", "Enter")
        await self.until(lambda: len(self.script.generates) > count)
        return self.script.generates[-1]

    async def until(self, holds: Any) -> None:
        for _ in range(WAIT_MS // 10):
            if holds():
                return
            await self.page.wait_for_timeout(10)
        raise AssertionError("it did not come to that")

    def answer(self, generate: Generate, text: str, **more: Any) -> None:
        """The engine's next words."""
        self.script.say(Delta(generate.rid, [*text.encode()], **more))


@asynccontextmanager
async def visiting(
    browser: Browser, script: Script, *, person: dict[str, Any] | None = None, **server: Any
) -> AsyncIterator[Visit]:
    """`person`: what Playwright is told of the browser's user; `server`: as for `listening`."""
    async with listening(script, **{"capacity": ROOMY, "drain_seconds": 0, **server}) as running:
        context = await browser.new_context(**person or {})
        context.set_default_timeout(WAIT_MS)
        visit = Visit(await context.new_page(), running, script)
        try:
            await visit.arrive()
            yield visit
            assert not visit.complaints, visit.complaints
            assert [url for url in visit.asked if not url.startswith(running.url + "/")] == []
        finally:
            await context.close()
