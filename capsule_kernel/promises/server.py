"""Which Resonate server, and the token for it: settings, the variables of Resonate's SDK, a command that prints one."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

from capsule_kernel.errors import ConfigurationError, PromisesUnavailable

_COMMAND_S = 10.0


def server_url(environ: Mapping[str, str], setting: str = "") -> str:
    """Return the server's URL: the setting, else `RESONATE_URL`, else `RESONATE_SCHEME`, `_HOST` and `_PORT`.

    Raises:
        ConfigurationError: there is none, or it is no URL of HTTP.
    """
    url = setting or environ.get("RESONATE_URL", "")
    source = "CapsuleKernel.resonate_url" if setting else "RESONATE_URL"
    if not url and environ.get("RESONATE_HOST"):
        source = "RESONATE_HOST"
        scheme, port = environ.get("RESONATE_SCHEME", "http"), environ.get("RESONATE_PORT", "8001")
        url = f"{scheme}://{environ['RESONATE_HOST']}:{port}"
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError(source=source, value=redacted(url), expected="a URL such as http://localhost:8001")
    return url.rstrip("/")


def address_of(group: str) -> str:
    """Return where the server sends work for a group of processes that poll it."""
    return f"poll://any@{group}"


def redacted(url: str) -> str:
    """Return a URL without the password and the query that it may hold."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class Token:
    """The token for a server.

    Args:
        text: a token that does not change; empty for none.
        command: a command line that prints one; it is run again when a token is refused.
    """

    def __init__(self, *, text: str = "", command: str = "") -> None:
        self._text = text
        self._command = command
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Token {'of a command' if self._command else 'given' if self._text else 'none'}>"

    async def get(self) -> str:
        """Return the token; empty for none.

        Raises:
            PromisesUnavailable: the command gives none.
        """
        async with self._lock:
            if not self._text and self._command:
                self._text = await self._ask()
            return self._text

    async def renew(self, refused: str) -> bool:
        """Get another token in place of the one that was refused; return whether there is another.

        Raises:
            PromisesUnavailable: the command gives none.
        """
        if not self._command:
            return False
        async with self._lock:
            if self._text == refused:
                self._text = await self._ask()
            return self._text != refused

    async def _ask(self) -> str:
        name = "the token command"
        try:
            process = await asyncio.create_subprocess_exec(
                *shlex.split(self._command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except (OSError, ValueError) as exc:
            raise PromisesUnavailable(name, f"it cannot be run: {exc}") from exc
        try:
            async with asyncio.timeout(_COMMAND_S):
                output, _ = await process.communicate()
        except TimeoutError as exc:
            raise PromisesUnavailable(name, f"it printed no token within {_COMMAND_S:g} s") from exc
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        token = output.decode(errors="replace").strip()
        if process.returncode != 0 or not token or any(character.isspace() for character in token):
            raise PromisesUnavailable(name, f"it ended with status {process.returncode} and printed no single token")
        return token
