"""`docs/checklist.md` names a test for each of its lines: those tests exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_that_the_checklist_names_exists() -> None:
    text = (ROOT / "docs" / "checklist.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", text)
    assert len(named) > 100
    missing = [f"{path}::{name}" for path, name in named if f"def {name}" not in _read(path)]
    assert missing == []


def _read(path: str) -> str:
    file = ROOT / path
    return file.read_text() if file.is_file() else ""
