"""The command line itself: help, version, and wrong use."""

from __future__ import annotations

import pytest

from capsule_kernel import __version__
from capsule_kernel.cli import main


@pytest.mark.parametrize(
    ("argv", "status", "part"),
    [
        (["--version"], 0, f"capsule {__version__}"),
        (["--help"], 0, "execute a notebook"),
        (["run", "--help"], 0, "NAME.executed.ipynb"),
        ([], 2, "COMMAND"),
        (["fly"], 2, "invalid choice"),
        (["run"], 2, "NOTEBOOK"),
        (["run", "a.ipynb", "--timeout", "0"], 2, "whole number of seconds"),
        (["install", "--user", "--sys-prefix"], 2, "not allowed with"),
    ],
)
def test_the_parser_answers_with_the_right_status(
    argv: list[str], status: int, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    captured = capsys.readouterr()
    assert caught.value.code == status
    assert part in (captured.err if status else captured.out)
