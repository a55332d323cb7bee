# SPDX-License-Identifier: Apache-2.0
"""`Runner`: carries batches out, a few at a time, and takes up after a restart what was under way.

The store says what there is to do and holds what has been done: a line is answered when its answer lies
there. A disk that is full, or an engine that takes no more, is waited for: nothing fails for it, and nothing
is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Concatenate, Final, Literal, ParamSpec, TypeAlias, TypeVar

from sgl_runtime import log
from sgl_runtime.errors import EngineDied, Overloaded, StorageFailed
from sgl_runtime.http.api import Api
from sgl_runtime.http.openai.batches.input import Line, Lines, Scan, scan
from sgl_runtime.http.openai.batches.kept import Answer
from sgl_runtime.http.openai.batches.lines import answer, unanswered
from sgl_runtime.http.openai.batches.objects import Batch, BatchError
from sgl_runtime.http.openai.batches.share import Share
from sgl_runtime.http.openai.batches.store import Store

P = ParamSpec("P")
T = TypeVar("T")

_Answers: TypeAlias = "asyncio.Queue[tuple[Answer, asyncio.Future[None]]]"
_End: TypeAlias = Literal["completed", "cancelled", "expired"]

_logger = log.logger(__name__)
_BATCHES = 8  # carried out at once; one that is small need not wait for one that is large
_SWEEP_S = 600.0  # between two looks for files whose time is up
_AGAIN_S = 10.0  # until a disk that failed is asked again
_RETRY_S = 1.0  # until an engine that is full is asked again
_EARLY: Final = {
    "cancelled": "the batch was cancelled before this line was answered",
    "expired": "the batch expired before this line was answered",
}


class Runner:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._share = Share(api.client)
        self._running: dict[str, _Run] = {}

    async def run(self) -> None:
        """For ever; what is under way when it is cancelled goes on at the next start."""
        storage = self._api.storage
        if not storage.used:
            await storage.changed.wait()
        failure = ""
        async with asyncio.TaskGroup() as group:
            while True:
                storage.changed.clear()
                try:
                    await self._look(group)
                    failure = ""
                except StorageFailed as error:
                    if error.message != failure:
                        _logger.warning("batches wait: %s", error.message)
                    failure = error.message
                with suppress(TimeoutError):
                    async with asyncio.timeout(_AGAIN_S if failure else _SWEEP_S):
                        await storage.changed.wait()

    async def _look(self, group: asyncio.TaskGroup) -> None:
        """Begin what can be begun, and end what is to end."""
        await self._api.storage.do(Store.expire_files)
        for batch in await self._api.storage.do(Store.open_batches):
            if (run := self._running.get(batch.id)) is not None:
                if batch.status == "cancelling":
                    run.cancelled.set()
            elif batch.status == "cancelling" or len(self._running) < _BATCHES:
                run = self._running[batch.id] = _Run(self._api, self._share, batch)
                group.create_task(self._carry_out(run))

    async def _carry_out(self, run: _Run) -> None:
        await run.carry_out()
        del self._running[run.batch.id]
        self._api.storage.changed.set()


class _Run:
    """One batch under way."""

    def __init__(self, api: Api, share: Share, batch: Batch) -> None:
        self.batch = batch
        self.cancelled = asyncio.Event()
        if batch.status == "cancelling":
            self.cancelled.set()
        self._api = api
        self._share = share

    async def carry_out(self) -> None:
        found = await self._scan()
        if isinstance(found, BatchError):
            await self._patiently(Store.fail, self.batch.id, found)
            return
        model = self._api.model_name if found.models <= self._api.model_names else None
        await self._patiently(Store.begin, self.batch.id, found.total, model)
        end = await self._until_the_end(found)
        if end != "completed":
            await self._give_up(found, end)
        await self._patiently(Store.finish, self.batch.id, end)

    async def _scan(self) -> Scan | BatchError:
        most, max_line = self._api.config.max_batch_lines, self._api.config.max_body_size
        path = await self._patiently(Store.path, self.batch.input_file_id)
        try:
            found = await asyncio.to_thread(scan, path, most=most, max_line=max_line)
        except OSError as error:
            return BatchError("unreadable_file", f"the input cannot be read: {error.strerror}")
        if found.total == 0:
            return BatchError("empty_file", "the input has no line")
        if found.total > most:
            return BatchError("too_many_lines", f"the input has more than {most} lines (--max-batch-lines)")
        return found

    async def _until_the_end(self, found: Scan) -> _End:
        """Answer lines until there are none, or until there is no time for more."""
        work = asyncio.create_task(self._answer_all(found))
        cancelled = asyncio.create_task(self.cancelled.wait())
        left = max(0.0, self.batch.expires_at - time.time())
        try:
            await asyncio.wait((work, cancelled), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                return "completed"
            return "cancelled" if cancelled.done() else "expired"
        finally:
            work.cancel()
            cancelled.cancel()
            await asyncio.gather(work, cancelled, return_exceptions=True)

    async def _answer_all(self, found: Scan) -> None:
        lines = await self._lines(found)
        answers: _Answers = asyncio.Queue()  # as long as lines are under way
        async with asyncio.TaskGroup() as outer:
            writing = outer.create_task(self._write(answers))
            async with asyncio.TaskGroup() as group:
                while some := await self._api.storage.write(lines.more):
                    for line in some:
                        await self._share.enter()
                        task = group.create_task(self._answer(line, answers))
                        task.add_done_callback(lambda _: self._share.leave())
            writing.cancel()

    async def _answer(self, line: Line, answers: _Answers) -> None:
        """Under way until its answer lies on the disk: a disk that is full holds new lines up."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answers.put_nowait((await self._ask(line), written))
        await written

    async def _ask(self, line: Line) -> Answer:
        while True:
            try:
                return await answer(self._api, line)
            except (Overloaded, EngineDied) as error:
                if isinstance(error, Overloaded) and self._share.alone:
                    return unanswered(line, "overloaded", error.message)  # nobody is there to wait for
            await asyncio.sleep(_RETRY_S)

    async def _write(self, answers: _Answers) -> None:
        """All that have come while the disk was busy go to it together."""
        while True:
            some = [await answers.get()]
            while not answers.empty():
                some.append(answers.get_nowait())
            await self._patiently(Store.record, self.batch.id, [answer for answer, _ in some])
            for _, written in some:
                if not written.done():
                    written.set_result(None)

    async def _give_up(self, found: Scan, end: Literal["cancelled", "expired"]) -> None:
        """Say of every line that has no answer that there will be none."""
        lines = await self._lines(found)
        while some := await self._api.storage.write(lines.more):
            answers = [unanswered(line, f"batch_{end}", _EARLY[end]) for line in some]
            await self._patiently(Store.record, self.batch.id, answers)

    async def _lines(self, found: Scan) -> Lines:
        """Those without an answer."""
        path = await self._patiently(Store.path, self.batch.input_file_id)
        answered = await self._patiently(Store.answered, self.batch.id)
        most = self._api.config.max_body_size
        return Lines(path, self.batch.endpoint, found.repeated, skip=answered, max_line=most)

    async def _patiently(
        self, method: Callable[Concatenate[Store, P], T], *arguments: P.args, **named: P.kwargs
    ) -> T:
        """`method` of the store, again and again while the disk fails."""
        warned = False
        while True:
            try:
                return await self._api.storage.do(method, *arguments, **named)
            except StorageFailed as error:
                if not warned:
                    _logger.warning("%s waits: %s", self.batch.id, error.message)
                warned = True
            await asyncio.sleep(_AGAIN_S)
