"""How an answer that must not be written anywhere comes in from elsewhere: a socket that only this user can open.

One line of JSON, `{"text": …}`; one back, `{"accepted": …}`. The promise says where the socket is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from typing import Self

import msgspec

_ANSWER_S = 10.0


class _Answer(msgspec.Struct, frozen=True):
    text: str


class SecretDoor:
    """A socket for one question."""

    def __init__(self, folder: str, take: Callable[[str], Awaitable[bool]]) -> None:
        self._folder = folder
        self.path = os.path.join(folder, "answer")
        self._take = take
        self._server: asyncio.Server | None = None

    @classmethod
    async def open(cls, take: Callable[[str], Awaitable[bool]]) -> Self:
        """Return a door that listens; `take` gets the answer, and says whether it was the first.

        Raises:
            OSError: there can be no socket, for instance since the path of TMPDIR is too long for one (unix(7)).
        """
        # A folder of mode 0700: nobody else gets to the socket.
        door = cls(tempfile.mkdtemp(prefix="capsule-input-"), take)
        try:
            door._server = await asyncio.start_unix_server(door._serve, door.path)
        except BaseException:
            door.close()
            raise
        return door

    def close(self) -> None:
        """Take nothing more, and leave nothing behind."""
        if self._server is not None:
            self._server.close()
            self._server = None
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                answer = msgspec.json.decode(await reader.readline(), type=_Answer)
                accepted = await self._take(answer.text)
                writer.write(msgspec.json.encode({"accepted": accepted}) + b"\n")
                await writer.drain()
        except (TimeoutError, OSError, ValueError, msgspec.MsgspecError):
            # What is no answer gets none.
            return
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
