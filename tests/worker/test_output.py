"""The streams in a worker: what ipykernel's offer, order, parents, pieces, hooks, and children that user code forks."""

from __future__ import annotations

import contextvars
import io
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from ipykernel.iostream import OutStream as IpykernelOutStream

from capsule_kernel.wire.framing import FrameDecoder
from capsule_kernel.wire.worker_messages import FromWorker, Stream, decode_from_worker
from capsule_kernel.worker import parents
from capsule_kernel.worker.channel import Channel
from capsule_kernel.worker.interrupt import ExecutionCancellation
from capsule_kernel.worker.output import HELD_CHARACTERS, OutStream

INTERNALS = {"flush_interval", "flush_timeout"}
"""Tuning of ipykernel's own thread."""


@dataclass
class Worker:
    """Both streams of a worker, the channel behind them, and the front's end of its link."""

    out: OutStream
    err: OutStream
    channel: Channel
    front: socket.socket
    decoder: FrameDecoder
    wakes: list[str]

    def sent(self) -> list[FromWorker]:
        """What has been published since the last call."""
        messages: list[FromWorker] = []
        while True:
            try:
                data = self.front.recv(1 << 20)
            except BlockingIOError:
                return messages
            messages += [decode_from_worker(payload) for payload in self.decoder.feed(data)]

    def texts(self) -> list[tuple[str, str]]:
        """The same as names and texts."""
        return [(each.name, each.text) for each in self.sent() if isinstance(each, Stream)]


@pytest.fixture
def worker() -> Iterator[Worker]:
    front, ours = socket.socketpair()
    front.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    channel = Channel(ours, ExecutionCancellation())
    out, err = OutStream("stdout"), OutStream("stderr")
    wakes: list[str] = []
    out.connect(channel, lambda: wakes.append("out"))
    err.connect(channel, lambda: wakes.append("err"))
    with front, ours:
        yield Worker(out, err, channel, front, FrameDecoder(), wakes)


@pytest.fixture(autouse=True)
def _no_request() -> Iterator[None]:
    """Each test begins and ends between requests."""
    parents.begin(0)
    yield
    parents.begin(0)


# --- what user code may expect --------------------------------------------------------------------------------------


def test_it_has_what_ipykernels_stream_has() -> None:
    theirs = {name for name in dir(IpykernelOutStream) if not name.startswith("_")}
    assert theirs - set(dir(OutStream)) == INTERNALS
    assert issubclass(OutStream, io.TextIOBase)


def test_it_says_of_itself_what_ipykernels_does(worker: Worker) -> None:
    for stream, name, descriptor in ((worker.out, "stdout", 1), (worker.err, "stderr", 2)):
        assert stream.name == name
        assert stream.encoding == "UTF-8"
        assert stream.fileno() == descriptor
        assert (stream.isatty(), stream.writable(), stream.readable(), stream.seekable()) == (False, True, False, False)
        assert not stream.closed
        assert not hasattr(stream, "buffer")


def test_writing_returns_the_length_and_takes_strings_only(worker: Worker) -> None:
    assert worker.out.write("é\U0001f600") == 2
    assert worker.out.write("") == 0
    for value in (b"bytes", 1, None):
        with pytest.raises(TypeError, match=f"must be str, not {type(value)}"):
            worker.out.write(value)  # type: ignore[arg-type]


def test_reading_is_refused(worker: Worker) -> None:
    with pytest.raises(io.UnsupportedOperation):
        worker.out.read()
    with pytest.raises(io.UnsupportedOperation):
        worker.out.seek(0)


def test_a_closed_stream_goes_on_working(worker: Worker) -> None:
    worker.out.write("before ")
    worker.out.close()
    assert worker.texts() == [("stdout", "before ")]
    print("after", file=worker.out, flush=True)
    assert worker.texts() == [("stdout", "after\n")]


def test_it_can_be_wrapped_and_printed_to(worker: Worker) -> None:
    print("a", 1, sep="-", end="!", file=worker.out)
    worker.out.writelines(["b", "c"])
    worker.out.flush()
    assert worker.texts() == [("stdout", "a-1!bc")]


def test_any_attribute_may_be_set_as_on_ipykernels(worker: Worker) -> None:
    stream: Any = worker.out
    stream.flush_interval = 0.01
    stream.mine = 1
    assert stream.mine == 1


# --- when it is published -------------------------------------------------------------------------------------------


def test_text_is_held_until_it_is_flushed_and_leaves_as_one_message(worker: Worker) -> None:
    for number in range(1000):
        worker.out.write(f"{number}\n")
    assert worker.sent() == []
    worker.out.flush()
    worker.out.flush()
    assert worker.texts() == [("stdout", "".join(f"{number}\n" for number in range(1000)))]


def test_who_publishes_is_woken_once_when_text_begins_to_wait(worker: Worker) -> None:
    worker.out.write("")
    assert worker.wakes == []
    worker.out.write("a")
    worker.out.write("b")
    assert worker.wakes == ["out"]
    worker.out.flush()
    worker.out.write("c")
    worker.err.write("d")
    assert worker.wakes == ["out", "out", "err"]


def test_no_more_is_held_than_the_limit(worker: Worker) -> None:
    line = "x" * 1023 + "\n"
    for _ in range(HELD_CHARACTERS // 1024 - 1):
        worker.out.write(line)
    assert worker.sent() == []
    worker.out.write(line)
    assert [len(text) for _, text in worker.texts()] == [HELD_CHARACTERS]


@pytest.mark.parametrize("length", [2 * HELD_CHARACTERS, 2 * HELD_CHARACTERS + 1, 5 * HELD_CHARACTERS + 3])
def test_long_text_leaves_in_pieces_and_whole(length: int, worker: Worker) -> None:
    text = ("é\U0001f600x" * (length // 3 + 1))[:length]
    reader = threading.Thread(target=worker.out.write, args=(text,))
    received: list[str] = []
    reader.start()
    worker.front.settimeout(10)
    while sum(map(len, received)) < length:
        for payload in worker.decoder.feed(worker.front.recv(1 << 20)):
            message = decode_from_worker(payload)
            assert isinstance(message, Stream)
            received.append(message.text)
    reader.join()
    assert "".join(received) == text
    assert max(map(len, received)) <= 2 * HELD_CHARACTERS
    assert len(received) > 1 or length <= 2 * HELD_CHARACTERS


def test_taking_what_is_held_leaves_nothing_to_publish(worker: Worker) -> None:
    assert worker.out.take() is None
    worker.out.write("x")
    assert worker.out.take() == Stream(parent=0, name="stdout", text="x")
    assert worker.out.take() is None
    worker.out.flush()
    assert worker.sent() == []


def test_lone_surrogates_become_question_marks(worker: Worker) -> None:
    worker.out.write("a\ud800b \udcff é")
    worker.out.flush()
    assert worker.texts() == [("stdout", "a?b ? é")]


# --- order and parents ----------------------------------------------------------------------------------------------


def test_each_stream_waits_for_its_own_flush_as_on_ipykernel(worker: Worker) -> None:
    for stream, text in [("out", "1"), ("out", "2"), ("err", "3"), ("out", "4"), ("err", "5"), ("err", "6")]:
        getattr(worker, stream).write(text)
    worker.out.flush()
    worker.err.flush()
    assert worker.texts() == [("stdout", "124"), ("stderr", "356")]


def test_a_flush_also_asks_for_what_was_handed_over_before(worker: Worker) -> None:
    worker.out.write("waits")
    worker.out.hand_over()
    worker.out.flush()
    worker.out.flush()
    sent = [each for each in worker.sent() if isinstance(each, Stream)]
    assert [(each.text, each.flushed) for each in sent] == [("waits", False), ("", True)]


def test_text_belongs_to_the_request_in_which_it_was_written(worker: Worker) -> None:
    for serial, text in [(1, "a"), (1, "b"), (2, "c"), (1, "d")]:
        parents.begin(serial)
        worker.out.write(text)
    worker.out.flush()
    assert [(each.parent, each.text) for each in worker.sent() if isinstance(each, Stream)] == [
        (1, "ab"),
        (2, "c"),
        (1, "d"),
    ]


def test_a_context_keeps_the_request_that_it_was_made_in(worker: Worker) -> None:
    """As tasks do, which go on under later cells."""
    parents.begin(1)
    context = contextvars.copy_context()
    parents.begin(2)
    context.run(worker.out.write, "of the first")
    worker.out.flush()
    (message,) = worker.sent()
    assert isinstance(message, Stream)
    assert message.parent == 1


def test_a_thread_writes_for_the_request_that_started_it(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", threading.Thread.start)
    parents.pin_threads()
    may_write = threading.Event()

    def write() -> None:
        assert may_write.wait(10)
        worker.out.write("late")

    parents.begin(1)
    thread = threading.Thread(target=write)
    thread.start()
    parents.begin(2)
    may_write.set()
    thread.join()
    worker.out.flush()
    (message,) = worker.sent()
    assert isinstance(message, Stream)
    assert (message.parent, message.text) == (1, "late")


def test_a_thread_of_unknown_origin_writes_for_the_newest_request(worker: Worker) -> None:
    import _thread

    done = threading.Event()
    parents.begin(1)
    parents.begin(2)

    def write() -> None:
        worker.out.write("x")
        done.set()

    _thread.start_new_thread(write, ())
    assert done.wait(10)
    worker.out.flush()
    (message,) = worker.sent()
    assert isinstance(message, Stream)
    assert message.parent == 2


def test_threads_that_write_at_once_lose_nothing(worker: Worker) -> None:
    def write(name: str) -> None:
        for number in range(500):
            worker.out.write(f"{name}{number}\n")
            if number % 100 == 0:
                worker.out.flush()

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker.out.flush()
    lines = "".join(text for _, text in worker.texts()).splitlines()
    for name in "abcd":
        assert [line for line in lines if line.startswith(name)] == [f"{name}{number}" for number in range(500)]


def test_requests_that_write_at_once_lose_nothing_to_each_other_or_to_who_publishes(worker: Worker) -> None:
    lines = 3000
    start = threading.Barrier(4)
    is_over = threading.Event()
    got: dict[int, list[str]] = {}

    def write(serial: int) -> None:
        parents.set_thread_parent(serial)
        start.wait(10)
        for number in range(lines):
            print(serial, number, file=worker.out)

    def publish() -> None:
        start.wait(10)
        while not is_over.is_set():
            worker.out.hand_over()

    def receive() -> None:
        for each in worker.sent():
            assert isinstance(each, Stream)
            got.setdefault(each.parent, []).append(each.text)

    writers = [threading.Thread(target=write, args=(serial,)) for serial in (7, 8, 9)]
    publisher = threading.Thread(target=publish)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in (*writers, publisher):
            thread.start()
        while any(thread.is_alive() for thread in writers):
            receive()
        is_over.set()
        publisher.join(10)
    finally:
        sys.setswitchinterval(interval)
    worker.out.flush()
    receive()
    for serial in (7, 8, 9):
        assert "".join(got[serial]) == "".join(f"{serial} {number}\n" for number in range(lines))


def test_text_that_comes_after_all_was_taken_is_announced(worker: Worker) -> None:
    parents.begin(3)
    for _ in range(3):
        print("text", file=worker.out)
        worker.out.hand_over()
    assert worker.wakes == ["out"] * 3
    print("one", file=worker.out)
    print("two", file=worker.out)
    assert worker.wakes == ["out"] * 4


# --- hooks ----------------------------------------------------------------------------------------------------------


def test_hooks_see_messages_and_may_change_them_or_use_them_up(worker: Worker) -> None:
    seen: list[dict[str, Any]] = []

    def hook(message: dict[str, Any]) -> dict[str, Any] | None:
        seen.append(message)
        text = message["content"]["text"]
        if text == "secret":
            return None
        return {**message, "content": {"name": "stdout", "text": text.upper()}}

    worker.out.register_hook(hook)
    assert worker.out.write("a") == 1
    assert worker.out.write("secret") == 6
    assert worker.out.unregister_hook(hook)
    assert not worker.out.unregister_hook(hook)
    worker.out.write("b")
    worker.out.flush()
    assert worker.texts() == [("stdout", "Ab")]
    assert [message["content"] for message in seen] == [
        {"name": "stdout", "text": "a"},
        {"name": "stdout", "text": "secret"},
    ]
    assert seen[0]["msg_type"] == seen[0]["header"]["msg_type"] == "stream"


def test_hooks_belong_to_the_thread_that_registered_them(worker: Worker) -> None:
    worker.out.register_hook(lambda _: None)
    thread = threading.Thread(target=worker.out.write, args=("from another",))
    thread.start()
    thread.join()
    worker.out.write("from this one")
    worker.out.flush()
    assert worker.texts() == [("stdout", "from another")]


def test_a_hook_may_print_and_remove_itself(worker: Worker) -> None:
    def hook(message: dict[str, Any]) -> dict[str, Any]:
        worker.out.write("[hooked]")
        worker.out.unregister_hook(hook)
        return message

    worker.out.register_hook(hook)
    worker.out.write("text")
    worker.out.write(" more")
    worker.out.flush()
    assert worker.texts() == [("stdout", "[hooked]text more")]


# --- ends -----------------------------------------------------------------------------------------------------------


def test_a_front_that_is_gone_is_no_error(worker: Worker) -> None:
    worker.front.close()
    worker.out.write("x")
    worker.out.flush()
    worker.channel.send(Stream(parent=0, name="stdout", text="y"))


def test_before_it_is_connected_text_is_dropped_rather_than_raising() -> None:
    stream = OutStream("stdout")
    print("in the zygote", file=stream, flush=True)
    assert stream.take() is None


CHILD = """
import json, os, socket, sys, time
from capsule_kernel.wire.framing import FrameDecoder
from capsule_kernel.wire.worker_messages import decode_from_worker
from capsule_kernel.worker.channel import Channel
from capsule_kernel.worker.interrupt import ExecutionCancellation
from capsule_kernel.worker.output import STDERR, STDOUT

front, ours = socket.socketpair()
channel = Channel(ours, ExecutionCancellation())
for stream in (STDOUT, STDERR):
    stream.connect(channel, lambda: None)
    os.register_at_fork(after_in_child=stream.after_fork_in_child)
os.register_at_fork(after_in_child=channel.after_fork_in_child)
STDOUT.write("held by the parent\\n")
pid = os.fork()
if pid == 0:
    STDOUT.write("a line\\n")
    STDERR.write("a warning\\n")
    STDOUT.write("flushed")
    STDOUT.flush()
    STDOUT.write(", the rest lost, as with any program that leaves like this")
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
STDOUT.write("and more")
STDOUT.flush()
ours.close()
data = b""
while piece := front.recv(65536):
    data += piece
messages = [decode_from_worker(payload) for payload in FrameDecoder().feed(data)]
os.write(int(sys.argv[1]), json.dumps([[each.name, each.text] for each in messages]).encode())
"""


def test_a_forked_child_writes_to_the_descriptors_and_never_to_the_link() -> None:
    reader, writer = socket.socketpair()
    with reader:
        with writer:
            result = subprocess.run(
                [sys.executable, "-c", CHILD, str(writer.fileno())],
                capture_output=True,
                pass_fds=[writer.fileno()],
                timeout=30,
                check=True,
                text=True,
            )
        assert json.loads(reader.recv(1 << 16)) == [["stdout", "held by the parent\nand more"]]
    assert result.stdout == "a line\nflushed"
    assert result.stderr == "a warning\n"
