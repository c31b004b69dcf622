"""Where the embedded store lies."""

from __future__ import annotations

import os
from collections.abc import Mapping

FILE_VARIABLE = "CAPSULE_PROMISES_FILE"
_FOLDER, _FILE = "capsule", "promises.sqlite3"


def promises_file(environ: Mapping[str, str], setting: str = "") -> str:
    """Return the path of the user's promises: the setting, else `CAPSULE_PROMISES_FILE`, else in Jupyter's data folder.

    The folder is that of docs.jupyter.org, "Common Directories and File Locations".
    """
    explicit = setting or environ.get(FILE_VARIABLE, "")
    if explicit:
        return os.path.abspath(os.path.expanduser(explicit))
    return os.path.join(_data_folder(environ), _FOLDER, _FILE)


def _data_folder(environ: Mapping[str, str]) -> str:
    given = environ.get("JUPYTER_DATA_DIR")
    if given:
        return given
    if environ.get("JUPYTER_PLATFORM_DIRS", "no").lower() not in {"no", "n", "false", "off", "0", "0.0"}:
        from jupyter_core.paths import jupyter_data_dir

        return str(jupyter_data_dir())
    return os.path.join(environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"), "jupyter")
