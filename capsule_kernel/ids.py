"""Names that have to be unique, as a collaborator: the only module that draws them."""

from __future__ import annotations

import os
import pwd
import uuid


def new_session() -> str:
    """Return a new session id (Jupyter messaging, `header.session`)."""
    return uuid.uuid4().hex


def new_subshell() -> str:
    """Return the id of a new subshell (JEP 91)."""
    return str(uuid.uuid4())


def username() -> str:
    """Return the user's name for message headers."""
    try:
        return os.environ.get("USER") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return "username"
