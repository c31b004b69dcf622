"""What goes out on iopub: in order, greeted, signed, and at a pace that jupyter_server's limiter lets through.

Time is simulated: a clock that the test moves, a worker that has messages ready at given times, and the front's loop,
which takes no more of them for as long as the publisher says.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import cast

import pytest

from capsule_kernel.front.iopub import IOPub
from capsule_kernel.front.journal import Journal
from capsule_kernel.front.sockets import Channel
from capsule_kernel.settings import Settings
from capsule_kernel.wire.jupyter import DELIMITER, Wire
from tests.bench.limiter import MESSAGES_PER_S, WINDOW_S, count_dropped

from .channels import RecordingChannel, SimulatedClock

DEFAULTS = Settings()
COST_S = 30e-6
"""What one message costs the front and its client, in seconds: the pace has to hold for any value."""


class Publisher:
    """An IOPub, and its surroundings."""

    def __init__(self, rate: int = DEFAULTS.iopub_msg_rate, window_ms: int = DEFAULTS.iopub_rate_window_ms) -> None:
        self.clock = SimulatedClock()
        self.channel = RecordingChannel(self.clock)
        wire = Wire(key=b"key", signature_scheme="hmac-sha256", session="5e55", username="u")
        self.iopub = IOPub(
            cast("Channel", self.channel),
            wire,
            clock=self.clock,
            journal=Journal(cap_bytes=0),
            rate=rate,
            window_ms=window_ms,
        )
        self.iopub.start()

    def run(self, ready_at: Iterable[float], *, cost_s: float = COST_S) -> float:
        """Publish a display for each of the times at which one is ready; return when the last was out."""
        clock = self.clock
        begin = clock.now
        for at in ready_at:
            # After each message the front asks how long to leave the worker alone.
            clock.now = max(clock.now + self.iopub.wait_s(), begin + at) + cost_s
            self.iopub.publish("display_data", b'{"data":{},"metadata":{}}', parent=b"{}")
        return clock.now - begin


# --- text that is held ----------------------------------------------------------------------------------------------


def texts(publisher: Publisher) -> list[tuple[str, str]]:
    """Names and texts of the streams so far; of other messages their type."""
    found = []
    for message in publisher.channel.messages()[1:]:
        content = message.json()
        found.append((content.get("name", ""), content.get("text", "")))
    return found


def test_text_of_one_moment_is_one_message_a_stream_and_stdout_comes_first() -> None:
    publisher = Publisher()
    for name, text in [("stderr", "1"), ("stdout", "2"), ("stderr", "3"), ("stdout", "4")]:
        publisher.iopub.hold(name, text, parent=b"{}")
    assert texts(publisher) == []
    publisher.iopub.publish("display_data", b"{}", parent=b"{}")
    assert texts(publisher) == [("stdout", "24"), ("stderr", "13"), ("", "")]


def test_one_stream_can_be_released_alone_and_comms_release_none() -> None:
    publisher = Publisher()
    publisher.iopub.hold("stderr", "e", parent=b"{}")
    publisher.iopub.hold("stdout", "o", parent=b"{}")
    publisher.iopub.publish("comm_msg", b"{}", parent=b"{}")
    publisher.iopub.release("stdout")
    assert texts(publisher) == [("", ""), ("stdout", "o")]


def test_text_of_another_request_releases_what_is_held() -> None:
    publisher = Publisher()
    publisher.iopub.hold("stdout", "first", parent=b'{"msg_id":"1"}')
    publisher.iopub.hold("stdout", "second", parent=b'{"msg_id":"2"}')
    publisher.iopub.release()
    assert texts(publisher) == [("stdout", "first"), ("stdout", "second")]


def test_no_more_text_is_held_than_a_worker_sends_at_once() -> None:
    publisher = Publisher()
    publisher.iopub.hold("stdout", "x" * (1 << 18), parent=b"{}")
    assert len(texts(publisher)) == 1


# --- the pace -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost_s", [0.0, 1e-6, 30e-6, 500e-6])
@pytest.mark.parametrize("count", [1, 2_000, 3_001, 10_000])
def test_a_burst_of_any_size_passes_the_limiter(count: int, cost_s: float) -> None:
    publisher = Publisher()
    publisher.run([0.0] * count, cost_s=cost_s)
    messages = publisher.channel.messages()
    assert len(messages) == count + 1
    assert count_dropped(messages) == 0


def test_two_thousand_displays_are_not_held_back() -> None:
    publisher = Publisher()
    assert publisher.run([0.0] * 2_000) == pytest.approx(2_000 * COST_S)


def test_a_flood_gets_most_of_what_the_server_lets_through() -> None:
    publisher = Publisher()
    taken_s = publisher.run([0.0] * 20_000)
    assert count_dropped(publisher.channel.messages()) == 0
    assert 20_000 / taken_s > 0.85 * MESSAGES_PER_S


def test_a_slow_stream_is_never_held_back() -> None:
    publisher = Publisher()
    every_s = 1 / 600
    assert publisher.run(number * every_s for number in range(5_000)) == pytest.approx(4_999 * every_s + COST_S)


@pytest.mark.parametrize("seed", range(12))
def test_bursts_of_random_sizes_at_random_times_pass_the_limiter(seed: int) -> None:
    source = random.Random(seed)
    ready: list[float] = []
    at = 0.0
    for _ in range(source.randrange(3, 12)):
        ready += [at] * source.choice([1, 10, 500, 2_000, 2_799, 2_801, 4_000])
        at += source.choice([0.0, 0.1, 1.0, 2.9, WINDOW_S, 3.1, 10.0]) * source.random()
    publisher = Publisher()
    publisher.run(ready, cost_s=source.choice([0.0, COST_S]))
    assert count_dropped(publisher.channel.messages()) == 0


def test_after_a_quiet_window_a_full_burst_goes_out_at_once() -> None:
    publisher = Publisher()
    publisher.run([0.0] * 5_000)
    publisher.clock.now += WINDOW_S + 0.001
    assert publisher.run([0.0] * 2_000) == pytest.approx(2_000 * COST_S)


def test_what_is_held_back_is_spread_rather_than_stopped() -> None:
    """A progress bar at the limit goes on moving: no single wait is long."""
    publisher = Publisher()
    waits = []
    for _ in range(10_000):
        waits.append(publisher.iopub.wait_s())
        publisher.clock.now += waits[-1] + COST_S
        publisher.iopub.publish("display_data", b"{}", parent=b"{}")
    assert 0 < max(waits) < 0.5


def test_many_small_cells_are_not_held_back_whatever_the_pace() -> None:
    """With each idle the server begins anew; busy, idle and inputs it does not count."""
    publisher = Publisher()
    iopub, clock = publisher.iopub, publisher.clock
    for number in range(5_000):
        parent = b'{"msg_id":"%d"}' % number
        iopub.status("busy", parent=parent)
        iopub.publish("execute_input", b"{}", parent=parent)
        for _ in range(3):
            assert iopub.wait_s() == 0
            iopub.publish("display_data", b"{}", parent=parent)
            clock.now += COST_S
        iopub.status("idle", parent=parent)
    assert count_dropped(publisher.channel.messages()) == 0


def test_a_flood_after_a_flood_in_another_cell_is_not_held_back_for_it() -> None:
    publisher = Publisher()
    publisher.run([0.0] * 2_000)
    publisher.iopub.status("idle", parent=b"{}")
    assert publisher.run([0.0] * 2_000) == pytest.approx(2_000 * COST_S)
    assert count_dropped(publisher.channel.messages()) == 0


@pytest.mark.parametrize("rate", [1, 10, 100])
def test_another_rate_is_kept_as_well(rate: int) -> None:
    publisher = Publisher(rate=rate, window_ms=2_000)
    publisher.run([0.0] * (rate * 10))
    times = [at for at, _ in publisher.channel.sent]
    for number, at in enumerate(times):
        assert sum(at - 2.0 < other <= at for other in times[: number + 1]) <= max(1, rate * 2)


def test_a_rate_of_zero_does_not_pace() -> None:
    publisher = Publisher(rate=0)
    assert publisher.run([0.0] * 20_000, cost_s=0.0) == 0.0


# --- clients that do not keep up ------------------------------------------------------------------------------------


def test_no_more_is_taken_while_much_is_under_way_to_a_client_that_reads() -> None:
    publisher = Publisher()
    iopub, channel = publisher.iopub, publisher.channel
    assert iopub.wait_s() == 0
    for read_bytes in range(0, 1 << 27, 1 << 20):
        channel.under_way = (1 << 27, read_bytes)
        assert iopub.wait_s() > 0
        assert iopub.backlog_wait_s() > 0
        publisher.clock.now += 1
    channel.under_way = (1 << 20, 1 << 27)
    assert iopub.wait_s() == iopub.backlog_wait_s() == 0


def test_a_client_that_does_not_read_is_not_waited_for_until_it_reads_again() -> None:
    publisher = Publisher()
    iopub, channel, clock = publisher.iopub, publisher.channel, publisher.clock
    iopub.wait_s()
    channel.under_way = (1 << 27, 0)
    begin = clock.now
    while (wait_s := iopub.wait_s()) > 0:
        clock.now += wait_s
    assert 1 <= clock.now - begin <= 10
    channel.under_way = (1 << 28, 0)
    assert iopub.wait_s() == 0
    channel.under_way = (1 << 28, 1)
    assert iopub.wait_s() > 0


def test_clients_are_waited_for_without_a_pace_too() -> None:
    publisher = Publisher(rate=0)
    publisher.iopub.wait_s()
    publisher.channel.under_way = (1 << 27, 0)
    assert publisher.iopub.wait_s() > 0


# --- what is said ---------------------------------------------------------------------------------------------------


def test_the_first_message_says_that_the_kernel_starts() -> None:
    assert Publisher().channel.said() == [("status", {"execution_state": "starting"}, b"{}")]


def test_a_messages_topic_names_the_kernel_and_its_type() -> None:
    publisher = Publisher()
    publisher.iopub.stream("stdout", "é\n", parent=b'{"msg_id":"1"}')
    frames = publisher.channel.sent[-1][1]
    assert frames[:2] == [b"kernel.5e55.stream", DELIMITER]
    assert publisher.channel.said()[-1] == ("stream", {"name": "stdout", "text": "é\n"}, b'{"msg_id":"1"}')


def test_buffers_and_metadata_go_along() -> None:
    publisher = Publisher()
    publisher.iopub.publish("comm_msg", b"{}", parent=b"{}", metadata=b'{"a":1}', buffers=[b"", b"raw"])
    assert publisher.channel.sent[-1][1][-4:] == [b'{"a":1}', b"{}", b"", b"raw"]


@pytest.mark.parametrize("topic", [b"", b"kernel.5e55.", "kernel.é".encode()])
def test_every_subscriber_is_greeted_on_its_own_topic(topic: bytes) -> None:
    publisher = Publisher()
    for _ in range(2):
        publisher.channel.receive([b"\x01" + topic])
    for _, frames in publisher.channel.sent[1:]:
        assert frames[0] == topic
    assert publisher.channel.said()[1:] == [("iopub_welcome", {"subscription": topic.decode()}, b"{}")] * 2


@pytest.mark.parametrize("frames", [[b"\x00topic"], [b""], [], [b"topic"], [b"\x01a", b"b"], [b"\x01\xff\xfe"]])
def test_what_is_no_subscription_is_ignored(frames: list[bytes]) -> None:
    publisher = Publisher()
    publisher.channel.receive(frames)
    assert len(publisher.channel.sent) == 1


def test_a_kernel_that_runs_a_cell_is_not_left_as_idle_by_another_request() -> None:
    publisher = Publisher()
    cell, completion = b'{"msg_id":"cell"}', b'{"msg_id":"completion"}'
    iopub = publisher.iopub
    iopub.status("busy", parent=cell)
    iopub.busy_parent = cell
    iopub.status("busy", parent=completion)
    iopub.status("idle", parent=completion)
    iopub.busy_parent = None
    iopub.status("idle", parent=cell)
    states = [
        (content["execution_state"], json.loads(parent).get("msg_id"))
        for _, content, parent in publisher.channel.said()
    ]
    assert states[1:] == [
        ("busy", "cell"),
        ("busy", "completion"),
        ("idle", "completion"),
        ("busy", "cell"),
        ("idle", "cell"),
    ]
