"""The debug adapter protocol's frames: whole, in pieces, and what is none. Source: DAP, "Base Protocol"."""

from __future__ import annotations

import pytest

from capsule_kernel.errors import ProtocolError
from capsule_kernel.wire.dap import DapDecoder, encode_dap

MESSAGES = [{"seq": 1, "type": "event", "event": "stopped"}, {"seq": 2, "text": "é\U0001f600\r\n\r\n"}, {}]


def test_messages_come_back_as_they_were() -> None:
    assert DapDecoder().feed(b"".join(map(encode_dap, MESSAGES))) == MESSAGES


@pytest.mark.parametrize("size", [1, 3, 20])
def test_the_pieces_that_a_stream_delivers_do_not_matter(size: int) -> None:
    data = b"".join(map(encode_dap, MESSAGES))
    decoder = DapDecoder()
    found = [message for start in range(0, len(data), size) for message in decoder.feed(data[start : start + size])]
    assert found == MESSAGES


def test_other_header_fields_are_allowed() -> None:
    assert DapDecoder().feed(b"X: 1\r\ncontent-length: 2\r\n\r\n{}") == [{}]


@pytest.mark.parametrize(
    "data",
    [
        b"Content-Length: x\r\n\r\n{}",
        b"Nothing: 2\r\n\r\n{}",
        b"Content-Length: -2\r\n\r\n{}",
        b"Content-Length: 2\r\n\r\n[]",
        b"Content-Length: 1\r\n\r\n{",
        b"Content-Length: 99999999999\r\n\r\n",
        b"x" * 5000,
    ],
)
def test_what_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        DapDecoder().feed(data)
