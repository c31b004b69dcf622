"""Guests that close, replace and misuse descriptors, and write what is no text (issue, section "Tests")."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kernel.starter import only_capsule

if TYPE_CHECKING:
    from tests.kernel.client import Client

pytestmark = only_capsule("descriptors 0-2 belong to user code")


def test_three_thousand_characters_by_write_arrive_whole(shared_kernel: Client) -> None:
    for _ in range(3):
        assert shared_kernel.run("import os\n_ = os.write(1, ('é' * 3000).encode())").stdout == "é" * 3000
        assert shared_kernel.run("_ = os.write(2, ('\U0001f600' * 3000).encode())").stderr == "\U0001f600" * 3000


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_later_cells_work_after_one_descriptor_is_closed(descriptor: int, kernel: Client) -> None:
    kernel.execute(f"import os\nos.close({descriptor})").ignore_outputs()
    cell = kernel.run("print('printed')\n6 * 7")
    assert cell.text == "42"
    assert cell.stdout == "printed\n"
    assert kernel.execute("1 / 0").ename == "ZeroDivisionError"


def test_later_cells_work_after_all_three_are_closed(kernel: Client) -> None:
    kernel.execute("import os\nfor n in range(3): os.close(n)").ignore_outputs()
    cell = kernel.run("import sys\nprint('printed')\nprint('warned', file=sys.stderr)\n6 * 7")
    assert cell.text == "42"
    assert cell.stdout == "printed\n"
    assert cell.stderr == "warned\n"
    kernel.run("opened = open('file.txt', 'w')\nopened.close()")
    assert kernel.run("6 * 7").text == "42"


def test_a_file_that_takes_a_closed_descriptor_gets_only_its_own(kernel: Client) -> None:
    """Whoever is handed number 1 next, the kernel does not write into it."""
    kernel.execute("import os\nos.close(1)\nf = os.open('taken.txt', os.O_WRONLY | os.O_CREAT)").ignore_outputs()
    assert kernel.run("print('printed')\n6 * 7").text == "42"
    kernel.run("_ = os.write(f, b'mine')\nos.close(f)").ignore_outputs()
    for exchange in kernel.exchanges.values():
        exchange.ignore_outputs()
    assert (kernel.process.cwd / "taken.txt").read_text() == "mine"


def test_closing_every_descriptor_ends_in_an_answer(kernel: Client) -> None:
    """The link goes with them: the worker's death is an acceptable answer, silence is not."""
    cell = kernel.execute("import os\nos.closerange(3, 4096)", timeout_s=20)
    cell.ignore_outputs()
    cell = kernel.execute("6 * 7", timeout_s=20)
    if cell.status == "error":
        cell.ignore_outputs()
        cell = kernel.run("6 * 7")
    assert cell.text == "42"


def test_closing_every_descriptor_of_an_awaiting_cell_ends_in_an_answer(kernel: Client) -> None:
    cell = kernel.execute(
        "import asyncio, os\nawait asyncio.sleep(0)\nos.closerange(0, 4096)\nawait asyncio.sleep(0)", timeout_s=20
    )
    cell.ignore_outputs()
    kernel.execute("pass", timeout_s=20).ignore_outputs()
    assert kernel.run("6 * 7").text == "42"


def test_redirected_descriptors_are_the_users(kernel: Client) -> None:
    code = (
        "import os\n"
        "saved = os.dup(1)\n"
        "target = os.open('redirected.txt', os.O_WRONLY | os.O_CREAT)\n"
        "_ = os.dup2(target, 1)\n"
        "_ = os.system('echo into the file')\n"
        "_ = os.dup2(saved, 1)\n"
        "_ = os.system('echo back again')"
    )
    assert kernel.run(code).stdout == "back again\n"
    assert (kernel.process.cwd / "redirected.txt").read_text() == "into the file\n"


def test_garbage_on_both_descriptors_is_survived(shared_kernel: Client) -> None:
    shared_kernel.run("import os")
    code = "for n in (1, 2): _ = os.write(n, os.urandom(100_000))"
    shared_kernel.run(code).claim("stream")
    # Half a character may still wait for its end.
    shared_kernel.run("for n in (1, 2): _ = os.write(n, b'\\n')").claim("stream")
    assert shared_kernel.run("6 * 7").text == "42"


def test_writing_into_every_descriptor_confuses_only_the_worker(kernel: Client) -> None:
    """Bytes of a guest on the link must not be taken for messages: an error or a death, never a hang."""
    code = (
        "import os\n"
        "for n in range(3, 64):\n"
        "    try: os.set_blocking(n, False); os.write(n, b'\\xff' * 64)\n"
        "    except OSError: pass"
    )
    kernel.execute(code, timeout_s=20).ignore_outputs()
    kernel.execute("pass", timeout_s=20).ignore_outputs()
    kernel.execute("import os; os._exit(0)", timeout_s=20).ignore_outputs()
    assert kernel.run("6 * 7").text == "42"


def test_no_descriptor_leaks_from_cell_to_cell(shared_kernel: Client) -> None:
    shared_kernel.run("import os\ndef count(): return len(os.listdir('/proc/self/fd'))\ncount();")
    before = int(shared_kernel.evaluate("count()"))
    for _ in range(20):
        shared_kernel.run("_ = os.system('true')\nprint('x')\nawait __import__('asyncio').sleep(0)").claim("stream")
    assert int(shared_kernel.evaluate("count()")) <= before + 1


def test_children_inherit_no_descriptor_of_the_kernel(shared_kernel: Client) -> None:
    code = (
        "import subprocess\n"
        "listing = subprocess.run(['ls', '/proc/self/fd'], stdout=subprocess.PIPE, text=True, close_fds=False)\n"
        "print(listing.stdout.split())"
    )
    # 0, 1, 2 and the one that ls opens.
    assert shared_kernel.run(code).stdout == "['0', '1', '2', '3']\n"
