# SPDX-License-Identifier: Apache-2.0
"""`Peers`: the other api processes of a server. A client's next request may come to any of them, and what it
asks about may be another's: a request by its name, a response by its id, the figures of all.

A question goes to all others, and their answers come through the inbox of whoever asked, among those of the
replicas. Knows none of the questions: who can answer one says so with `answer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec

from sgl_runtime.errors import Overloaded
from sgl_runtime.messages import Message, home_of, new_rid

T = TypeVar("T")

_ANSWER_S = 5.0  # they do nothing that takes longer than a request's tokenisation


class Question(Message, frozen=True):
    rid: str
    about: str
    name: str | None = None


class Reply(Message, frozen=True):
    rid: str
    home: int  # who answers
    data: bytes  # msgpack of what the question is answered with


class Left(Message, frozen=True):
    """The process of that number answers no question any more: it ends."""

    home: int


FromPeer: TypeAlias = Question | Reply | Left


class Sender(Protocol):
    """Another process's inbox: `channel.Push`."""

    def send(self, message: Message) -> None: ...


class Peers:
    """`home`: the number of this process; `inboxes`: of all of them, by number, this one's too."""

    def __init__(self, home: int = 0, inboxes: Sequence[Sender] = ()) -> None:
        self.home = home
        self._inboxes = inboxes
        self._others = {number: inbox for number, inbox in enumerate(inboxes) if number != home}
        self._answers: dict[str, Callable[[str | None], Any]] = {}
        self._asked: dict[str, asyncio.Queue[Reply | Left]] = {}

    def answer(self, about: str, how: Callable[[str | None], Any]) -> None:
        """Questions `about` something are answered with what `how` makes of their name."""
        self._answers[about] = how

    async def ask(self, about: str, name: str | None = None, *, kind: type[T]) -> list[T]:
        """What every other process answers that has not left. Raises Overloaded if one does not."""
        rid = new_rid(self.home)
        answers = self._asked[rid] = asyncio.Queue()
        silent, told = set(self._others), []
        try:
            for inbox in self._others.values():
                inbox.send(Question(rid, about, name))
            async with asyncio.timeout(_ANSWER_S):
                while silent:
                    said = await answers.get()
                    silent.discard(said.home)
                    if isinstance(said, Reply):
                        told.append(said.data)
        except TimeoutError:
            raise Overloaded(
                f"another process of the server has not answered for {_ANSWER_S:.0f} s"
            ) from None
        finally:
            del self._asked[rid]
        return [msgspec.msgpack.decode(data, type=kind) for data in told]

    def leave(self) -> None:
        """Tell the others not to wait for this one."""
        for inbox in self._others.values():
            inbox.send(Left(self.home))

    def hear(self, said: FromPeer) -> None:
        match said:
            case Question():
                data = msgspec.msgpack.encode(self._answers[said.about](said.name))
                self._inboxes[home_of(said.rid)].send(Reply(said.rid, self.home, data))
            case Reply():
                if (answers := self._asked.get(said.rid)) is not None:
                    answers.put_nowait(said)
            case Left():
                self._others.pop(said.home, None)
                for answers in self._asked.values():
                    answers.put_nowait(said)
