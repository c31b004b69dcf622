"""Notebook files: read with clear errors, written whole or not at all."""

import json
import os
import re
import shutil
import sys
import warnings
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from capsule_kernel.errors import NotebookError, NotebookRunError

# JSON can write it, UTF-8 cannot.
_HALF = re.compile("[\ud800-\udfff]")

SKIP_TAG = "skip-execution"
"""Cells with this tag are not executed (nbclient's convention)."""


def read(path: Path) -> NotebookNode:
    """Read a notebook of any format version as version 4.

    Raises:
        NotebookError: the file is missing, unreadable, or not a notebook.
    """
    try:
        # Other programs put a mark of the byte order before UTF-8.
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text)
    except FileNotFoundError as exc:
        raise NotebookError(str(path), "no such file") from exc
    except IsADirectoryError as exc:
        raise NotebookError(str(path), "a folder, not a notebook") from exc
    except OSError as exc:
        raise NotebookError(str(path), f"cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise NotebookError(str(path), f"not a notebook: no UTF-8 text at byte {exc.start}") from exc
    except json.JSONDecodeError as exc:
        reason = f"not a notebook: no JSON at line {exc.lineno}, column {exc.colno} ({exc.msg})"
        raise NotebookError(str(path), reason) from exc
    except RecursionError as exc:
        raise NotebookError(str(path), "not a notebook: its JSON is nested too deeply") from exc
    except ValueError as exc:
        # Python reads no longer ones: the time that takes grows with the square of their length.
        reason = f"not a notebook: a number in it has more than {sys.get_int_max_str_digits()} digits"
        raise NotebookError(str(path), reason) from exc
    if not isinstance(content, dict) or not isinstance(content.get("nbformat"), int):
        raise NotebookError(str(path), "not a notebook: it has no 'nbformat' number")
    trouble: dict[str, Exception] = {}
    with warnings.catch_warnings():
        # Missing or doubled cell ids are mended while reading; the notebook itself stays as it is.
        warnings.simplefilter("ignore")
        try:
            notebook: NotebookNode = nbformat.reads(text, as_version=4, capture_validation_error=trouble)
        except Exception as exc:  # the reader meets whatever a file contains; any failure means the same
            raise NotebookError(str(path), f"not a notebook that can be read: {exc}") from exc
    if trouble:
        reason = str(next(iter(trouble.values()))).partition("\n\n")[0]
        raise NotebookError(str(path), f"not a valid notebook: {reason}")
    for number, cell in enumerate(notebook.cells, 1):
        half = _HALF.search(cell.source) if cell.cell_type == "code" else None
        if half is not None:
            reason = f"not text: cell {number} has half of a surrogate pair ({half.group()!r}); take it out"
            raise NotebookError(str(path), reason)
    return notebook


def check_writable(path: Path) -> None:
    """Find out before a long run, not after it.

    Raises:
        NotebookError: the file could not be written.
    """
    folder = path.parent
    if path.is_dir():
        raise NotebookError(str(path), "is a folder; give a file name with --output")
    if not folder.is_dir():
        raise NotebookError(str(path), f"the folder {folder} does not exist")
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise NotebookError(str(path), "no permission to write there; give another place with --output")


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook; what stood there before stays until the new one is complete.

    Raises:
        NotebookRunError: it cannot be written.
    """
    target = path.resolve()
    fresh = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    # What UTF-8 cannot write stands in JSON as it came: `\ud800`, which is how Python escapes it too.
    data = (nbformat.writes(notebook) + "\n").encode(errors="backslashreplace")
    try:
        if target.exists() and not target.is_file():  # /dev/null, a pipe: nothing to replace
            target.write_bytes(data)
            return
        try:
            fresh.write_bytes(data)
            if target.exists():
                shutil.copymode(target, fresh)
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as exc:
        raise NotebookRunError(str(path), f"cannot be written: {exc.strerror}") from exc


def expects_error(cell: NotebookNode) -> bool:
    """Return whether a cell's tag announces that it fails (nbclient's `raises-exception`)."""
    return "raises-exception" in cell.metadata.get("tags", [])


def is_executed(cell: NotebookNode) -> bool:
    """Whether a run executes this cell."""
    if cell.cell_type != "code" or not cell.source.strip():
        return False
    return SKIP_TAG not in cell.metadata.get("tags", [])
