"""Streams: `sys.stdout` as an OutStream, descriptors 1 and 2, and their order before idle.

Issue, point 4: `sys.stdout`/`stderr` as ipykernel's OutStream behaves; file descriptors 1 and 2 are captured too (C
code, child processes), decoded incrementally; everything a cell wrote is published before its reply and idle.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zmq

from .starter import only_capsule

if TYPE_CHECKING:
    from .client import Client


def test_print_goes_to_stdout_and_warnings_to_stderr(shared_kernel: Client) -> None:
    cell = shared_kernel.run("import sys\nprint('out')\nprint('err', file=sys.stderr)")
    assert cell.stdout == "out\n"
    assert cell.stderr == "err\n"


def test_prints_of_one_moment_are_one_message(shared_kernel: Client) -> None:
    messages = shared_kernel.run("for n in range(100):\n    print(n)").claim("stream")
    assert "".join(m.content["text"] for m in messages) == "".join(f"{n}\n" for n in range(100))
    assert len(messages) <= 10


def test_output_arrives_while_the_cell_runs(shared_kernel: Client) -> None:
    cell = shared_kernel.start("print('early')\ninput()", allow_stdin=True)
    cell.wait_stream("early\n")
    shared_kernel.answer(shared_kernel.wait_input_request(cell), "")
    assert cell.wait().text == "''"


def test_output_arrives_while_the_cell_sleeps(shared_kernel: Client) -> None:
    """Nothing flushes it but the kernel itself."""
    cell = shared_kernel.start("import time\nprint('before the sleep')\ntime.sleep(60)")
    cell.wait_stream("before the sleep\n")
    shared_kernel.interrupt()
    assert cell.ename == "KeyboardInterrupt"


def test_output_arrives_while_a_cell_runs_that_could_not_begin_at_once(shared_kernel: Client) -> None:
    """A task of an earlier cell keeps the main thread for longer than the front waits with its tick."""
    shared_kernel.run(
        "import asyncio, time\n"
        "async def hog():\n    while True:\n        time.sleep(0.3)\n        await asyncio.sleep(0)\n"
        "task = asyncio.create_task(hog())"
    )
    cell = shared_kernel.start("print('early')\ntime.sleep(60)")
    cell.wait_stream("early\n")
    shared_kernel.interrupt()
    assert cell.ename == "KeyboardInterrupt"
    shared_kernel.run("task.cancel();")


def test_stdout_has_what_libraries_use(shared_kernel: Client) -> None:
    assert shared_kernel.evaluate("__import__('sys').stdout.encoding") == "'UTF-8'"
    assert shared_kernel.evaluate("__import__('sys').stdout.isatty()") in {"False", "True"}
    assert shared_kernel.evaluate("__import__('sys').stdout.writable()") == "True"
    assert shared_kernel.evaluate("__import__('sys').stdout.fileno() >= 0") == "True"
    assert shared_kernel.evaluate("__import__('sys').stdout.name") == "'stdout'"
    assert shared_kernel.evaluate("__import__('sys').stdout.closed") == "False"
    assert shared_kernel.evaluate("__import__('sys').stdout.errors") in {"'replace'", "'strict'", "None"}
    assert shared_kernel.evaluate("isinstance(__import__('sys').stdout, __import__('io').TextIOBase)") == "True"


def test_write_takes_text_only_and_tells_its_length(shared_kernel: Client) -> None:
    cell = shared_kernel.run("import sys\nn = sys.stdout.write('five\\n')\nsys.stdout.writelines(['a\\n', 'b\\n'])")
    assert cell.stdout == "five\na\nb\n"
    assert shared_kernel.evaluate("n") == "5"
    assert shared_kernel.execute("sys.stdout.write(b'bytes')").ename == "TypeError"


def test_echo_and_redirection_work(shared_kernel: Client) -> None:
    code = (
        "import contextlib, io\n"
        "with contextlib.redirect_stdout(io.StringIO()) as got:\n"
        "    print('inside')\n"
        "print('outside')"
    )
    assert shared_kernel.run(code).stdout == "outside\n"
    assert shared_kernel.evaluate("got.getvalue()") == "'inside\\n'"


@only_capsule("ipykernel's descriptors lose the race against idle")
def test_output_of_child_processes_comes_before_idle(shared_kernel: Client) -> None:
    code = "import subprocess, sys\nsubprocess.run(['sh', '-c', 'echo to stdout; echo to stderr >&2'], check=True)"
    cell = shared_kernel.run(code + ";")
    assert cell.stdout == "to stdout\n"
    assert cell.stderr == "to stderr\n"


@only_capsule("ipykernel's descriptors lose the race against idle")
def test_output_of_c_code_comes_before_idle(shared_kernel: Client) -> None:
    code = (
        "import ctypes\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.write(1, b'by write\\n', 9)\n"
        "libc.dprintf(2, b'by dprintf %d\\n', 7)\n"
        "libc.printf(b'by printf\\n')\n"
        "libc.fflush(None);"
    )
    cell = shared_kernel.run(code)
    assert cell.stdout == "by write\nby printf\n"
    assert cell.stderr == "by dprintf 7\n"


@only_capsule("ipykernel's descriptors lose the race against idle")
def test_python_and_descriptor_output_keep_their_order(shared_kernel: Client) -> None:
    code = (
        "import os, sys\n"
        "for n in range(10):\n"
        "    print('python', n, flush=True)\n"
        "    os.write(1, f'descriptor {n}\\n'.encode())"
    )
    expected = "".join(f"python {n}\ndescriptor {n}\n" for n in range(10))
    text = shared_kernel.run(code).stdout
    assert sorted(text.splitlines()) == sorted(expected.splitlines())
    assert [line for line in text.splitlines() if "python" in line] == [f"python {n}" for n in range(10)]


@only_capsule("ipykernel decodes every 1,000 bytes on their own")
def test_characters_split_over_writes_are_decoded_whole(shared_kernel: Client) -> None:
    cell = shared_kernel.run("import os\nfor byte in 'é日\U0001f600'.encode():\n    _ = os.write(1, bytes([byte]))")
    assert cell.stdout == "é日\U0001f600"


@only_capsule("ipykernel decodes every 1,000 bytes on their own")
def test_characters_split_over_two_cells_are_not_lost(shared_kernel: Client) -> None:
    first = shared_kernel.run("import os\n_ = os.write(1, b'\\xc3')")
    second = shared_kernel.run("_ = os.write(1, b'\\xa9\\n')")
    assert (first.stdout + second.stdout).endswith("\n")


@only_capsule("ipykernel's descriptors lose the race against idle")
def test_bytes_that_are_no_text_are_replaced(shared_kernel: Client) -> None:
    cell = shared_kernel.run("import os\n_ = os.write(1, b'a\\xffb\\n')")
    assert cell.stdout == "a\ufffdb\n"


@only_capsule("ipykernel's descriptors lose the race against idle")
def test_the_original_stdout_is_heard_too(shared_kernel: Client) -> None:
    cell = shared_kernel.run("import sys\nprint('dunder', file=sys.__stdout__, flush=True)")
    assert cell.stdout == "dunder\n"


def test_a_thread_prints_into_the_cell_that_started_it(shared_kernel: Client) -> None:
    code = (
        "import threading\n"
        "go = threading.Event()\n"
        "def late():\n"
        "    go.wait(30)\n"
        "    print('from the thread')\n"
        "threading.Thread(target=late).start()"
    )
    cell = shared_kernel.run(code)
    shared_kernel.run("go.set()")
    assert cell.wait_late_stream("from the thread\n") == "from the thread\n"


def test_a_task_prints_into_the_cell_that_started_it(shared_kernel: Client) -> None:
    code = (
        "import asyncio\n"
        "ready = asyncio.Event()\n"
        "async def late():\n"
        "    await ready.wait()\n"
        "    print('from the task')\n"
        "task = asyncio.create_task(late())"
    )
    cell = shared_kernel.run(code)
    shared_kernel.run("ready.set()")
    assert cell.wait_late_stream("from the task\n") == "from the task\n"


def test_carriage_returns_and_escapes_pass_through(shared_kernel: Client) -> None:
    text = shared_kernel.run("print('10%\\r20%\\r\\x1b[31mred\\x1b[0m\\b', end='')").stdout
    assert text == "10%\r20%\r\x1b[31mred\x1b[0m\b"


def test_logging_goes_to_stderr(shared_kernel: Client) -> None:
    cell = shared_kernel.run("import logging\nlogging.getLogger('mine').warning('careful')")
    assert "careful" in cell.stderr


@pytest.mark.parametrize("lines", [10_000])
def test_many_lines_arrive_whole(lines: int, shared_kernel: Client) -> None:
    text = shared_kernel.run(f"for n in range({lines}):\n    print('line', n)", timeout_s=30).stdout
    assert text == "".join(f"line {n}\n" for n in range(lines))


def test_a_long_line_arrives_whole(shared_kernel: Client) -> None:
    assert shared_kernel.run("print('é' * 3_000_000)", timeout_s=30).stdout == "é" * 3_000_000 + "\n"


@pytest.mark.slow
@only_capsule("ipykernel does not read the pipe of a child")
def test_a_child_that_writes_faster_than_a_client_reads_does_not_fill_the_front(kernel: Client) -> None:
    """What a client has not read yet waits in the child and in its pipe."""
    peak_kib = _peak_kib(kernel)
    kernel.run("import subprocess")
    with zmq.Context() as context, context.socket(zmq.SUB) as slow:
        slow.linger = 0
        slow.rcvhwm = 1
        slow.connect(kernel.process.address("iopub"))
        slow.subscribe(b"")
        assert slow.poll(10_000)
        cell = kernel.start("_ = subprocess.run('yes flood | head -c 300000000', shell=True)")
        while not cell.is_done:
            if slow.poll(0):
                slow.recv_multipart()
            kernel.pass_time(0.04)
        assert len(cell.wait().stdout) == 300_000_000
    assert _peak_kib(kernel) - peak_kib < 150 * 1024


def _peak_kib(kernel: Client) -> int:
    """The most memory that the front has had, in KiB."""
    status = Path(f"/proc/{kernel.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def test_atexit_handlers_run_at_a_graceful_shutdown(kernel: Client) -> None:
    """Issue, point 4: a graceful shutdown runs atexit handlers (at most 2 s)."""
    trace = kernel.process.directory / "trace.txt"
    kernel.run(f"import atexit, pathlib\n_ = atexit.register(pathlib.Path({str(trace)!r}).write_text, 'ran')")
    kernel.shutdown()
    kernel.process.wait_exit()
    kernel.process.wait_gone()
    assert trace.read_text() == "ran"


@only_capsule("ipykernel waits without an end")
def test_an_atexit_handler_that_hangs_does_not_keep_the_kernel(kernel: Client) -> None:
    kernel.run("import atexit, time\n_ = atexit.register(time.sleep, 600)")
    kernel.shutdown()
    kernel.process.wait_exit()
    kernel.process.wait_gone()
