"""Where the embedded store lies."""

from __future__ import annotations

import os
from collections.abc import Mapping

from capsule_kernel.folders import data_folder

FILE_VARIABLE = "CAPSULE_PROMISES_FILE"
_FOLDER, _FILE = "capsule", "promises.sqlite3"


def promises_file(environ: Mapping[str, str], setting: str = "") -> str:
    """Return the path of the user's promises: the setting, else `CAPSULE_PROMISES_FILE`, else in Jupyter's data folder.

    The folder is that of docs.jupyter.org, "Common Directories and File Locations".
    """
    explicit = setting or environ.get(FILE_VARIABLE, "")
    if explicit:
        return os.path.abspath(os.path.expanduser(explicit))
    return os.path.join(data_folder(environ), _FOLDER, _FILE)
