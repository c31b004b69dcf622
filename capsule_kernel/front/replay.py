"""Answers `capsule_replay_request`: what executions have put out so far, for a client that was not there.

In the reply, for the one that asks; on iopub once more, with the original parents, for a front end that only knows how
to listen. `docs/reconnect.md` describes both for those who write clients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from capsule_kernel.front.iopub import IOPub
from capsule_kernel.front.journal import Entry, Journal, Output
from capsule_kernel.front.replies import Replies
from capsule_kernel.front.requests import Request
from capsule_kernel.wire.jupyter import encode_json

_MARK = b'"capsule":{"replayed":true}'


class _Content(msgspec.Struct, frozen=True):
    msg_id: str | None = None
    republish: bool = False


class Replay:
    """The handler."""

    def __init__(self, *, journal: Journal, iopub: IOPub, replies: Replies) -> None:
        self._journal = journal
        self._iopub = iopub
        self._replies = replies

    def handle(self, request: Request) -> None:
        """Send the reply, here since it has buffers."""
        content = msgspec.json.decode(request.message.raw_content, type=_Content)
        # What is held back for more of its stream is output, too.
        self._iopub.release()
        entries = self._journal.entries(content.msg_id)
        if content.republish:
            for entry in entries:
                self._republish(entry)
        buffers: list[bytes] = []
        found = [_described(entry, buffers) for entry in entries]
        reply = encode_json({"status": "ok", "requests": found})
        self._replies.send(request, "capsule_replay_reply", reply, buffers=buffers)

    def _republish(self, entry: Entry) -> None:
        """Send it all again. Clients that have had it clear the cell first, and are where they were."""
        parent = entry.request.parent
        if entry.state == "queued":
            return
        self._iopub.status("busy", parent=parent)
        if entry.outputs:
            self._again("clear_output", b'{"wait":true}', parent)
        if entry.dropped:
            text = f"[{entry.dropped} earlier messages of this cell are no longer kept]\n"
            self._again("stream", encode_json({"name": "stderr", "text": text}), parent)
        # A comm opened twice would be two; clients find widgets by comm_info_request, and ask them for their state.
        for output in _merged(each for each in entry.outputs if not each.msg_type.startswith("comm_")):
            self._again(output.msg_type, output.content, parent, output.metadata, output.buffers)
        if entry.state == "finished":
            self._iopub.status("idle", parent=parent)

    def _again(
        self, msg_type: str, content: bytes, parent: bytes, metadata: bytes = b"{}", buffers: list[bytes] | None = None
    ) -> None:
        marked = b"{%b}" % _MARK if metadata == b"{}" else b"%b,%b}" % (metadata.rstrip()[:-1], _MARK)
        self._iopub.publish_again(msg_type, content, parent=parent, metadata=marked, buffers=buffers)


def _merged(outputs: Iterable[Output]) -> Iterator[Output]:
    """Yield the outputs, pieces of one stream that follow each other as one: a server counts messages."""
    held: list[Output] = []
    name, texts = "", [""]
    for output in outputs:
        if output.msg_type == "stream":
            content = msgspec.json.decode(output.content, type=dict[str, str])
            if held and content["name"] == name:
                texts.append(content["text"])
                continue
            yield from _joined(held, name, texts)
            held, name, texts = [output], content["name"], [content["text"]]
            continue
        yield from _joined(held, name, texts)
        held = []
        yield output
    yield from _joined(held, name, texts)


def _joined(held: list[Output], name: str, texts: list[str]) -> Iterator[Output]:
    for output in held:
        content = encode_json({"name": name, "text": "".join(texts)}) if len(texts) > 1 else output.content
        yield msgspec.structs.replace(output, content=content)


def _described(entry: Entry, buffers: list[bytes]) -> dict[str, object]:
    """Return an entry as it stands in the reply, and put its buffers behind those that are there."""
    outputs = []
    for output in entry.outputs:
        first = len(buffers)
        buffers.extend(output.buffers)
        outputs.append(
            {
                "msg_type": output.msg_type,
                "content": msgspec.Raw(output.content),
                "metadata": msgspec.Raw(output.metadata),
                "date": output.date,
                "buffers": list(range(first, len(buffers))),
            }
        )
    message = entry.request.message
    return {
        "msg_id": message.header.msg_id,
        "header": msgspec.Raw(message.raw_header),
        "metadata": msgspec.Raw(message.raw_metadata),
        "state": entry.state,
        "dropped": entry.dropped,
        "outputs": outputs,
        "reply": msgspec.Raw(entry.reply or b"null"),
        "reply_metadata": msgspec.Raw(entry.reply_metadata),
    }
