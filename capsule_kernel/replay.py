"""Outputs that a client has missed: what running and finished cells have put out, from the kernel's journal.

    for cell in replay(client): print(cell.msg_id, cell.state, cell.outputs())

For clients of jupyter_client, blocking (`replay`) and asynchronous (`replay_async`), while the kernel lives.
The messages themselves are described in `docs/reconnect.md`.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from capsule_kernel.errors import ConnectionFileError, ReplayUnavailable

_REPLY = "capsule_replay_reply"
_PORT = "control_port"
_WHICH = "give the kernel's, as `jupyter --runtime-dir` has it, or a part of its name"


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One execution, as far as it has come.

    Attributes:
        msg_id: of its `execute_request`.
        header: of that request.
        metadata: of that request; what JupyterLab and VS Code call the cell is in `cellId`.
        state: `queued`, `running` or `finished`.
        messages: what it has put out, as messages with `msg_type`, `content`, `metadata`, `date` and `buffers`.
        dropped: how many older messages are no longer kept.
        reply: content of its `execute_reply`, None before that.
    """

    msg_id: str
    header: dict[str, Any]
    metadata: dict[str, Any]
    state: Literal["queued", "running", "finished"]
    messages: list[dict[str, Any]]
    dropped: int
    reply: dict[str, Any] | None

    @property
    def cell_id(self) -> str | None:
        """What the front end that ran it calls the cell, None where it did not say."""
        return self.metadata.get("cellId")

    @property
    def code(self) -> str:
        """What was executed, empty before that and for a silent request."""
        return next((str(m["content"]["code"]) for m in self.messages if m["msg_type"] == "execute_input"), "")

    @property
    def execution_count(self) -> int | None:
        """Its number, None before it was executed and for a silent request."""
        return next((m["content"]["execution_count"] for m in self.messages if m["msg_type"] == "execute_input"), None)

    def outputs(self) -> list[dict[str, Any]]:
        """Return the outputs as they stand in a notebook: streams joined, displays updated, what was cleared gone."""
        outputs: list[dict[str, Any]] = []
        shown: dict[str, list[dict[str, Any]]] = {}
        is_clear_due = False
        for message in self.messages:
            kind, content = message["msg_type"], message["content"]
            if kind == "clear_output":
                is_clear_due = bool(content.get("wait"))
                if not is_clear_due:
                    outputs.clear()
                continue
            display_id = content.get("transient", {}).get("display_id")
            if kind == "update_display_data":
                for output in shown.get(display_id, []):
                    output.update(data=content["data"], metadata=content["metadata"])
                continue
            output = _output(kind, content)
            if not output:
                continue
            if is_clear_due:
                outputs.clear()
                is_clear_due = False
            last = outputs[-1] if outputs else {}
            if kind == "stream" and last.get("name") == content["name"]:
                last["text"] += content["text"]
                continue
            outputs.append(output)
            if display_id is not None:
                shown.setdefault(display_id, []).append(output)
        return outputs


def replay(client: Any, msg_id: str | None = None, *, republish: bool = False, timeout_s: float = 10.0) -> list[Cell]:
    """Return what the kernel has kept, oldest first.

    Args:
        client: a `BlockingKernelClient` whose channels are started.
        msg_id: of one `execute_request`; None: all that are kept.
        republish: whether all of it goes out on iopub once more, with the original requests as parents.
        timeout_s: how long to wait for the answer, in seconds.

    Raises:
        ReplayUnavailable: the kernel does not answer; others than Capsule do not know the request.
    """
    asked = _ask(client, msg_id, republish=republish)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            message = client.get_control_msg(timeout=max(0.0, deadline - time.monotonic()))
        except Exception as exc:
            # queue.Empty, by its own name or another; whatever a client raises means the same here.
            raise ReplayUnavailable(f"no answer within {timeout_s:g} s") from exc
        if message["msg_type"] == _REPLY and message["parent_header"].get("msg_id") == asked:
            return _cells(message)


async def replay_async(
    client: Any, msg_id: str | None = None, *, republish: bool = False, timeout_s: float = 10.0
) -> list[Cell]:
    """Do as `replay`, with an `AsyncKernelClient`.

    Raises:
        ReplayUnavailable: the kernel does not answer; others than Capsule do not know the request.
    """
    asked = _ask(client, msg_id, republish=republish)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            message = await client.get_control_msg(timeout=max(0.0, deadline - time.monotonic()))
        except Exception as exc:
            raise ReplayUnavailable(f"no answer within {timeout_s:g} s") from exc
        if message["msg_type"] == _REPLY and message["parent_header"].get("msg_id") == asked:
            return _cells(message)


@contextlib.contextmanager
def connected(connection_file: str) -> Iterator[Any]:
    """Give a client of a kernel that runs, for `replay`.

    Args:
        connection_file: path of its connection file, or a part of the name of one in Jupyter's runtime folder.

    Raises:
        ReplayUnavailable: there is no such file, or it cannot be read.
        ConnectionFileError: it is another kind of file.
    """
    from jupyter_client.blocking.client import BlockingKernelClient
    from jupyter_client.connect import find_connection_file

    try:
        path = find_connection_file(connection_file)
        _check_is_connection(path)
        client = BlockingKernelClient(connection_file=path)
        client.load_connection_file()
    except (OSError, ValueError) as exc:
        raise ReplayUnavailable(f"connection file {connection_file!r}: {exc}") from exc
    client.start_channels(shell=False, iopub=False, stdin=False, hb=False, control=True)
    try:
        yield client
    finally:
        client.stop_channels()


def fill(notebook: Any, cells: Iterable[Cell]) -> int:
    """Put outputs into the cells of a notebook (nbformat 4) that they belong to; return how many cells got some.

    JupyterLab names its cells by their ids. Of a cell that was run several times, the last run counts.
    """
    import nbformat

    found = {cell.cell_id: cell for cell in cells if cell.cell_id is not None and cell.state != "queued"}
    count = 0
    for each in notebook.cells:
        cell = found.get(each.get("id"))
        if cell is not None and each.cell_type == "code":
            each.outputs = [nbformat.from_dict(output) for output in cell.outputs()]  # type: ignore[no-untyped-call]  # nbformat has no types
            each.execution_count = cell.execution_count
            count += 1
    return count


def _check_is_connection(path: str) -> None:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as exc:
        raise ConnectionFileError(path, f"it is none: no JSON; {_WHICH}") from exc
    if not isinstance(content, dict) or not isinstance(content.get(_PORT), int):
        raise ConnectionFileError(path, f"it is none: it has no {_PORT!r}; {_WHICH}")


def _ask(client: Any, msg_id: str | None, *, republish: bool) -> str:
    message = client.session.msg("capsule_replay_request", {"msg_id": msg_id, "republish": republish})
    client.control_channel.send(message)
    return str(message["header"]["msg_id"])


def _cells(message: dict[str, Any]) -> list[Cell]:
    buffers = message.get("buffers", [])
    cells = []
    for each in message["content"]["requests"]:
        messages = [
            {**output, "buffers": [bytes(buffers[number]) for number in output["buffers"]]}
            for output in each["outputs"]
        ]
        cells.append(
            Cell(
                msg_id=each["msg_id"],
                header=each["header"],
                metadata=each["metadata"],
                state=each["state"],
                messages=messages,
                dropped=each["dropped"],
                reply=each["reply"],
            )
        )
    return cells


def _output(kind: str, content: dict[str, Any]) -> dict[str, Any]:
    """Return a message's content as an output of a notebook (nbformat 4), empty for what is none."""
    match kind:
        case "stream":
            return {"output_type": kind, "name": content["name"], "text": content["text"]}
        case "display_data":
            return {"output_type": kind, "data": content["data"], "metadata": content["metadata"]}
        case "execute_result":
            return {
                "output_type": kind,
                "data": content["data"],
                "metadata": content["metadata"],
                "execution_count": content["execution_count"],
            }
        case "error":
            return {
                "output_type": kind,
                "ename": content["ename"],
                "evalue": content["evalue"],
                "traceback": content["traceback"],
            }
        case _:
            return {}
