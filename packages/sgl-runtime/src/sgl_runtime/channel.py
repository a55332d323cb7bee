# SPDX-License-Identifier: Apache-2.0
"""Typed messages between processes of one server; the only file that imports zmq.

    Push -> Pull / AsyncPull     one way, many to one        api -> replica, replica -> api
    Fanout -> Tap                one to all, in order        leader -> followers

A channel carries one union of `messages` and knows nothing of what the messages mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec
import zmq
import zmq.asyncio

from sgl_runtime.errors import EngineDied
from sgl_runtime.messages import Message, decoder, encode

T = TypeVar("T")

_LINGER_MS = 0  # a process that ends does not wait for a reader that may be gone


def _socket(context: zmq.Context[Any], kind: int, address: str, *, bind: bool) -> Any:
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, _LINGER_MS)
    socket.setsockopt(zmq.SNDHWM, 0)  # no limit: a message is never dropped and a sender never blocks
    socket.setsockopt(zmq.RCVHWM, 0)
    if bind:
        socket.bind(address)
    else:
        socket.connect(address)
    return socket


class Push:
    """The sending end. `send` never blocks; messages arrive in order."""

    def __init__(self, address: str, *, bind: bool = False) -> None:
        self._socket = _socket(zmq.Context.instance(), zmq.PUSH, address, bind=bind)

    def send(self, message: Message) -> None:
        self._socket.send(encode(message))

    def close(self) -> None:
        self._socket.close()


class Pull(Generic[T]):
    """The receiving end in a plain loop: `Pull(address, ToReplica)`."""

    def __init__(self, address: str, union: Any, *, bind: bool = True) -> None:
        self._socket = _socket(zmq.Context.instance(), zmq.PULL, address, bind=bind)
        self._decoder: msgspec.msgpack.Decoder[T] = decoder(union)

    def drain(self) -> list[T]:
        """Every message that has arrived; does not wait."""
        messages: list[T] = []
        while True:
            try:
                messages.append(self._decoder.decode(self._socket.recv(zmq.NOBLOCK)))
            except zmq.Again:
                return messages

    def wait(self, seconds: float) -> bool:
        """True as soon as a message is there, False after `seconds` without one."""
        return bool(self._socket.poll(int(seconds * 1000)))

    def close(self) -> None:
        self._socket.close()


class AsyncPull(Generic[T]):
    """The receiving end in an event loop."""

    def __init__(self, address: str, union: Any, *, bind: bool = True) -> None:
        self._socket = _socket(zmq.asyncio.Context.instance(), zmq.PULL, address, bind=bind)
        self._decoder: msgspec.msgpack.Decoder[T] = decoder(union)

    async def receive(self) -> T:
        return self._decoder.decode(await self._socket.recv())

    def close(self) -> None:
        self._socket.close()


class Fanout:
    """The leader's end: waits until every follower has said hello, then sends each message to all of them."""

    def __init__(self, address: str) -> None:
        self._socket = _socket(zmq.Context.instance(), zmq.ROUTER, address, bind=True)
        self._followers: list[bytes] = []

    def gather(self, followers: int, *, seconds: float) -> None:
        """Block until `followers` have connected. Raises EngineDied if they have not within `seconds`."""
        while len(self._followers) < followers:
            if not self._socket.poll(int(seconds * 1000)):
                raise EngineDied(
                    f"{len(self._followers)} of {followers} followers connected within {seconds:.0f} s"
                )
            identity, _ = self._socket.recv_multipart()
            self._followers.append(identity)

    def send(self, message: Message) -> None:
        data = encode(message)
        for follower in self._followers:
            self._socket.send_multipart((follower, data))

    def close(self) -> None:
        self._socket.close()


class Tap(Generic[T]):
    """A follower's end."""

    def __init__(self, address: str, union: Any) -> None:
        self._socket = _socket(zmq.Context.instance(), zmq.DEALER, address, bind=False)
        self._decoder: msgspec.msgpack.Decoder[T] = decoder(union)
        self._socket.send(b"")

    def receive(self) -> T:
        return self._decoder.decode(self._socket.recv())

    def close(self) -> None:
        self._socket.close()


__all__: Sequence[str] = ["AsyncPull", "Fanout", "Pull", "Push", "Tap"]
