# SPDX-License-Identifier: Apache-2.0
"""`Detokenizer`: the text of one request's output, as its tokens arrive.

Two things keep text back: the bytes of a character that is not complete, and what may turn out to be the
beginning of a stop string. Everything else is certain and given out at once. Why the request ended is the
scheduler's to say; both look for stop strings in the same bytes, those of all tokens, special ones included,
whether shown or not.

    bytes of the tokens     ...released | held: a proper prefix of a stop string      (`_held`, with `_shown`
    beside; without stop strings what is not shown is not kept, and only half a character is held)
"""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence
from itertools import compress

from sgl_runtime.messages import Finish, StoppedByToken
from sgl_runtime.text.vocabulary import Vocabulary


class Detokenizer:
    """Tokens in, text out: `push` as often as there are tokens, then `finish` once.

    What all calls return, joined, does not depend on how the tokens were divided among them, and never holds
    a stop string that the tokens spell (unless `keep_stop`). Among several stop strings the one that is
    complete first counts; of those complete at the same byte, the longest. Broken UTF-8 becomes U+FFFD, as
    Python's "replace" does it.

    special: ids whose text is not shown if `skip_special`.
    stop: stop strings, UTF-8, none empty.
    stop_tokens: ids that may end the request; their text waits until the next token, or `finish`, shows that
        they did not.
    keep_stop: show the stop string or stop token that ended the request; a stop token that is special only if
        special ones are shown.
    spaces_between_special: False drops the space that a SentencePiece vocabulary puts before the text that
        follows a shown special token. Other vocabularies put none.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        special: frozenset[int],
        stop: Sequence[bytes] = (),
        stop_tokens: Collection[int] = (),
        skip_special: bool = True,
        spaces_between_special: bool = True,
        keep_stop: bool = False,
    ) -> None:
        assert all(stop), "an empty stop string would end every request before it begins"
        self._vocabulary = vocabulary
        self._special = special
        self._stop = tuple(stop)
        self._longest_stop = max(map(len, stop), default=0)
        self._stop_tokens = frozenset(stop_tokens)
        self._skip_special = skip_special
        self._drop_space = vocabulary.prefix_space and not spaces_between_special
        self._keep_stop = keep_stop
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = bytearray()
        self._shown = bytearray()  # as long as _held: 1 for bytes that are shown
        self._waiting: int | None = None  # a stop token that may be the last
        self._after_special = False
        self._stopped = False

    def push(self, tokens: Sequence[int]) -> str:
        """The text that is certain now; "" if nothing new is."""
        for token in tokens:
            if self._waiting is not None:
                self._append(self._waiting)
            self._waiting = token if token in self._stop_tokens else None
            if self._waiting is None:
                self._append(token)
        return self._release()

    def finish(self, finish: Finish) -> str:
        """The rest of the text: what was held back, unless it is what ended the request.

        The last token that was pushed is the one that `finish` speaks of.
        """
        if self._waiting is not None and (self._keep_stop or not isinstance(finish, StoppedByToken)):
            self._append(self._waiting)
        self._waiting = None
        text = self._release() + self._decode(len(self._held))
        return text + self._decoder.decode(b"", final=True)

    def _append(self, token: int) -> None:
        data = self._vocabulary[token]
        special = token in self._special
        shown = not (special and self._skip_special)
        dropped = 0  # bytes at its begin
        if self._drop_space:
            dropped = int(self._after_special and not special and data.startswith(b" "))
            self._after_special = special and shown
        if self._stop:
            self._held += data
            self._shown += bytes(dropped) + bytes([shown]) * (len(data) - dropped)
        elif shown:  # nothing is looked for in what is not
            self._held += data[dropped:]

    def _release(self) -> str:
        if self._stopped:
            self._held.clear()
            self._shown.clear()
            return ""
        if not self._stop:
            text, length = codecs.utf_8_decode(self._held, "replace")
            del self._held[:length]
            return text
        if (match := self._first_match()) is not None:
            self._stopped = True
            start, end = match
            if self._keep_stop:
                self._shown[start:end] = b"\x01" * (end - start)
            text = self._decode(end if self._keep_stop else start)
            self._held.clear()
            self._shown.clear()
            return text
        return self._decode(len(self._held) - self._beginning_of_a_stop())

    def _first_match(self) -> tuple[int, int] | None:
        """[start, end) in _held of the stop string that is complete first."""
        found = [(self._held.find(stop), len(stop)) for stop in self._stop]
        ends = [(at + length, at) for at, length in found if at >= 0]
        if not ends:
            return None
        end, start = min(ends)
        return start, end

    def _beginning_of_a_stop(self) -> int:
        """The length of the longest end of _held with which a stop string begins."""
        for length in range(min(self._longest_stop - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0

    def _decode(self, length: int) -> str:
        """Take `length` bytes off _held; their text, as far as its characters are complete."""
        data, shown = self._held[:length], self._shown[:length]
        del self._held[:length], self._shown[:length]
        return self._decoder.decode(data if all(shown) else bytes(compress(data, shown)))
