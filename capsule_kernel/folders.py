"""Where Capsule keeps what lasts: a folder of the user's own."""

from __future__ import annotations

import os
from collections.abc import Mapping

CHECKPOINTS_VARIABLE = "CAPSULE_CHECKPOINTS"


def checkpoints_folder(environ: Mapping[str, str], setting: str = "") -> str:
    """Return the path of the user's checkpoints: the setting, `CAPSULE_CHECKPOINTS`, or in Jupyter's data folder."""
    explicit = setting or environ.get(CHECKPOINTS_VARIABLE, "")
    if explicit:
        return os.path.abspath(os.path.expanduser(explicit))
    return os.path.join(data_folder(environ), "capsule", "checkpoints")


def data_folder(environ: Mapping[str, str]) -> str:
    """Return Jupyter's data folder of the user (docs.jupyter.org, "Common Directories and File Locations")."""
    given = environ.get("JUPYTER_DATA_DIR")
    if given:
        return given
    if environ.get("JUPYTER_PLATFORM_DIRS", "no").lower() not in {"no", "n", "false", "off", "0", "0.0"}:
        from jupyter_core.paths import jupyter_data_dir

        return str(jupyter_data_dir())
    return os.path.join(environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"), "jupyter")


def make_private_file(path: str) -> None:
    """Make an empty file that only its owner may read, unless there is one.

    One that is there is not even opened: by closing it this process would lose its locks on the file, which SQLite's
    other connections rely on (sqlite.org, "How To Corrupt An SQLite Database File", 2.2).

    Raises:
        OSError: it cannot be made.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
