"""Completion: in a fresh kernel, later, and while a cell runs; its matches compared with ipykernel's."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from tests.bench.process import KernelError

if TYPE_CHECKING:
    from tests.bench.client import Client
    from tests.bench.kernels import Kernel
    from tests.bench.run import Run

Matches = tuple[tuple[str, ...], int, int]

SETUP = """\
import json, os, string, time
my_long_variable = 1
my_list = [1, 2]
class Thing:
    colour = "red"
    def paint(self): ...
thing = Thing()"""
FIRST = ("imp", "os.pa", "my_lo")
LATER = (
    "my_li",
    "json.du",
    "my_list.ap",
    "thing.",
    "string.asc",
    "time.mon",
    "print(my_l",
    "from os import pat",
    "os.path.jo",
    "%tim",
    "import js",
    "for q in my_",
)
BUSY_S = 1.2
BUSY = {
    "complete_sleep": (f"time.sleep({BUSY_S})", ("impo", "os.path.", "my_lon")),
    "complete_loop": (
        f"_end = time.monotonic() + {BUSY_S}\nwhile time.monotonic() < _end: pass",
        ("retu", "json.lo", "my_long"),
    ),
}
_NAMES = ("complete_first", "complete_later", *BUSY, "complete_differs")


def measure(run: Run) -> None:
    """A fresh kernel per round; the first input changes from round to round."""
    seen: dict[str, dict[str, Matches]] = {kernel.name: {} for kernel in run.kernels}
    for round_, kernel in run.interleaved(max(len(FIRST), run.few_rounds)):
        if run.has_failed(kernel, *_NAMES):
            continue
        with run.attempt(kernel, *_NAMES), run.client(kernel) as client:
            client.execute_ok(SETUP)
            shift = round_ % len(FIRST)
            first, *others = FIRST[shift:] + FIRST[:shift]
            run.record(kernel, "complete_first", _complete(client, first, seen[kernel.name]))
            for text in (*others, *LATER):
                run.record(kernel, "complete_later", _complete(client, text, seen[kernel.name]))
            if run.is_wanted(*BUSY):
                _measure_busy(run, kernel, client, seen[kernel.name])
    _compare(run, seen)


def warm_up(client: Client) -> None:
    """Ask everything twice, as a kernel may give up once: the parser's cache on disk is not what is measured."""
    client.execute_ok(SETUP)
    for text in (*FIRST, *LATER, *(text for _, texts in BUSY.values() for text in texts)) * 2:
        _complete(client, text, {})


def _measure_busy(run: Run, kernel: Kernel, client: Client, seen: dict[str, Matches]) -> None:
    for name, (code, texts) in BUSY.items():
        for text in texts:
            msg_id = client.send_execute(run.tag(code))
            while client.receive(client.iopub).msg_type != "execute_input":
                pass
            time.sleep(0.1)
            run.record(kernel, name, _complete(client, text, seen))
            client.wait_idle(msg_id)


def _complete(client: Client, text: str, seen: dict[str, Matches]) -> float:
    """Milliseconds from request to reply; the matches go into `seen`."""
    content = json.dumps({"code": text, "cursor_pos": len(text)}).encode()
    start = time.perf_counter()
    msg_id = client.send(client.shell, "complete_request", content)
    reply = client.wait_reply(client.shell, msg_id, start + 15)
    elapsed_ms = (reply.at - start) * 1000
    answer = reply.json()
    if answer["status"] != "ok":
        msg = f"completion of {text!r} failed: {answer}"
        raise KernelError(msg)
    matches = tuple(answer["matches"]), int(answer["cursor_start"]), int(answer["cursor_end"])
    # Of two different answers to one input, the one that differs from a peer's should show: an empty one counts.
    if text not in seen or not matches[0]:
        seen[text] = matches
    return elapsed_ms


def _compare(run: Run, seen: dict[str, dict[str, Matches]]) -> None:
    reference = seen.get("ipykernel", {})
    for kernel in run.kernels:
        common = reference.keys() & seen[kernel.name].keys()
        different = sorted(text for text in common if reference[text] != seen[kernel.name][text])
        if common and not run.has_failed(kernel, "complete_differs"):
            run.record(kernel, "complete_differs", len(different))
            for text in different:
                run.note(
                    f"{kernel.name}: completion of {text!r}: {_difference(seen[kernel.name][text], reference[text])}"
                )


def _difference(mine: Matches, reference: Matches) -> str:
    if mine[1:] != reference[1:]:
        return f"replaces {mine[1:]}, ipykernel {reference[1:]}"
    missing, more = set(reference[0]) - set(mine[0]), set(mine[0]) - set(reference[0])
    if missing or more:
        return f"{len(missing)} missing {sorted(missing)[:3]}, {len(more)} more {sorted(more)[:3]}"
    return "the same matches in another order"
