"""The promises that the settings ask for."""

from __future__ import annotations

from collections.abc import Mapping

from capsule_kernel.promises.client import Promises
from capsule_kernel.promises.embedded import EmbeddedPromises
from capsule_kernel.promises.place import promises_file
from capsule_kernel.settings import Settings

TOKEN_VARIABLE = "RESONATE_TOKEN"  # noqa: S105 - the name of a variable


def open_promises(settings: Settings, environ: Mapping[str, str]) -> Promises | None:
    """Return the promises by `CapsuleKernel.durability`, not yet started; None when they are off.

    Args:
        settings: the kernel's.
        environ: environment variables: `CAPSULE_PROMISES_FILE`, and those of Resonate's SDK.

    Raises:
        ConfigurationError: they are to be on a server, and none is named.
    """
    if settings.durability == "off":
        return None
    if settings.durability == "embedded":
        path = promises_file(environ, settings.promises_file)
        return EmbeddedPromises(path, retention_days=settings.promises_retention_days)
    from capsule_kernel.promises.remote import RemotePromises
    from capsule_kernel.promises.server import Token, server_url

    token = Token(text=environ.get(TOKEN_VARIABLE, ""), command=settings.resonate_token_command)
    return RemotePromises(server_url(environ, settings.resonate_url), token)
