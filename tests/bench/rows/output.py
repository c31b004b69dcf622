"""Much output: time to idle, what was lost on the way, and what jupyter_server's rate limiter would have dropped."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.bench import limiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.client import Message
    from tests.bench.run import Run

_DEADLINE_S = 20.0
LINES = 100_000
BIG_LINE_BYTES = 50_000_000
DISPLAYS = 2_000
PACED_DISPLAYS = 5_000


def measure_lines(run: Run) -> None:
    """100,000 short lines."""
    expected = "".join(f"{i}\n" for i in range(LINES))
    _measure(run, "lines", f"for i in range({LINES}): print(i)", lambda got: abs(len(expected) - len(_stdout(got))))


def measure_big_line(run: Run) -> None:
    """One line of 50 MB."""
    code = f'print("x" * {BIG_LINE_BYTES})'
    _measure(run, "big_line", code, lambda got: abs(BIG_LINE_BYTES + 1 - len(_stdout(got))))


def measure_displays(run: Run) -> None:
    """2,000 displays."""
    _measure(run, "displays", f"for i in range({DISPLAYS}): display(i)", lambda got: DISPLAYS - _displays(got))


def measure_pacing(run: Run) -> None:
    """As many displays as jupyter_server's limiter does not let through at once."""
    code = f"for i in range({PACED_DISPLAYS}): display(i)"
    _measure(run, "paced", code, lambda got: PACED_DISPLAYS - _displays(got))


def _measure(run: Run, name: str, code: str, count_lost: Callable[[list[Message]], int]) -> None:
    names = name, f"{name}_lost", f"{name}_dropped"
    for _, kernel in run.interleaved(run.few_rounds):
        if run.has_failed(kernel, *names):
            continue
        with run.attempt(kernel, *names), run.client(kernel) as client:
            start = time.perf_counter()
            msg_id = client.send_execute(run.tag(code))
            messages = list(client.output_until_idle(msg_id, start + _DEADLINE_S))
            client.wait_reply(client.shell, msg_id, start + _DEADLINE_S)
            run.record(kernel, name, (time.perf_counter() - start) * 1000)
            run.record(kernel, f"{name}_lost", count_lost(messages))
            run.record(kernel, f"{name}_dropped", limiter.count_dropped(messages))


def _stdout(messages: list[Message]) -> str:
    return "".join(message.json()["text"] for message in messages if message.msg_type == "stream")


def _displays(messages: list[Message]) -> int:
    """How many displays arrived, in order and with their right contents."""
    shown = [message.json()["data"]["text/plain"] for message in messages if message.msg_type == "display_data"]
    return sum(text == str(i) for i, text in enumerate(shown))
