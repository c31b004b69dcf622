"""Checkpoints taken in one process and restored in another, for tests that give the code for both."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_PROGRAM = Path(__file__).with_name("clean.py")


class CleanProcess:
    """Drives `clean.py`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(_PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


class Journey:
    """A store, and what goes into it and comes out."""

    def __init__(self, process: CleanProcess, folder: Path) -> None:
        self._process = process
        self.folder = folder
        self.store = folder / "store"
        self.work = folder / "work"
        self.work.mkdir()

    def take(self, *cells: str, **more: Any) -> dict[str, Any]:
        """Run the cells in one process, with a checkpoint after each; return what the last one says."""
        answer = self._process.ask(
            {"do": "take", "cells": cells, "store": str(self.store), "folder": str(self.work), **more}
        )
        assert "error" not in answer, answer["error"]
        return answer

    def bring_back(self, check: str = "", **more: Any) -> dict[str, Any]:
        """Restore the newest checkpoint in another process and run `check` there."""
        answer = self._process.ask(
            {"do": "restore", "check": check, "store": str(self.store), "folder": str(self.folder), **more}
        )
        assert "error" not in answer, answer["error"]
        return answer


@pytest.fixture(scope="session")
def clean_process() -> Iterator[CleanProcess]:
    process = CleanProcess()
    yield process
    process.end()


@pytest.fixture
def journey(clean_process: CleanProcess, tmp_path: Path) -> Journey:
    return Journey(clean_process, tmp_path)
