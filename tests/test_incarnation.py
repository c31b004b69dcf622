"""Which process it was."""

import os
import subprocess
import sys

import pytest

from capsule_kernel.incarnation import (
    described_holder,
    holder,
    incarnation,
    incarnation_of,
    is_foreign,
    is_holder_over,
    is_over,
)


def test_this_process_is_not_over() -> None:
    assert not is_over(incarnation())
    assert not is_foreign(incarnation())
    assert not is_holder_over(holder())
    assert described_holder(holder()) == f"process {os.getpid()}"


def test_a_process_is_over_when_it_has_ended_even_if_nobody_has_noticed() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    described = incarnation_of(process.pid)
    word = ".".join(map(str, described.values()))
    assert not is_over(described)
    assert not is_holder_over(word)
    process.kill()
    # Ended, and not waited for: a zombie.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_over(described)
    assert is_holder_over(word)
    process.communicate()
    assert is_over(described)


@pytest.mark.parametrize("field", ["host", "machine"])
def test_of_another_machine_nothing_is_known(field: str) -> None:
    described = incarnation() | {field: "another", "boot": "another"}
    assert is_foreign(described)
    assert not is_over(described)
    assert not is_holder_over(".".join(map(str, described.values())))


def test_a_machine_that_was_started_again_has_none_of_its_processes() -> None:
    assert is_over(incarnation() | {"boot": "another"})


@pytest.mark.parametrize("word", ["", "me", "a.b", "a.b.c.d.e"])
def test_who_is_called_otherwise_is_not_known(word: str) -> None:
    assert not is_holder_over(word)
    assert described_holder(word) == word
