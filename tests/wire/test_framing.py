"""Frames are found in a byte stream however it is cut, long messages come in fragments, and limits hold."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from capsule_kernel.errors import ProtocolError
from capsule_kernel.wire import framing
from capsule_kernel.wire.framing import FRAGMENT_BYTES, MESSAGE_BYTES_LIMIT, FrameDecoder, encode_frames

MORE = 1 << 31


def frame(payload: bytes, *, more: bool = False) -> bytes:
    """A frame by hand, as the module's docstring describes it."""
    return (len(payload) | (MORE if more else 0)).to_bytes(4, "big") + payload


def feed_all(*pieces: bytes) -> list[bytes]:
    decoder = FrameDecoder()
    return [message for piece in pieces for message in decoder.feed(piece)]


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 255, 256, 65_536, FRAGMENT_BYTES])
def test_a_short_message_is_one_frame(size: int) -> None:
    payload = bytes(size)
    assert encode_frames(payload) == frame(payload)


@pytest.mark.parametrize("extra", [1, FRAGMENT_BYTES, FRAGMENT_BYTES + 7])
def test_a_longer_message_is_cut_into_full_fragments_and_a_rest(extra: int) -> None:
    payload = bytes(range(256)) * ((FRAGMENT_BYTES + extra) // 256 + 1)
    payload = payload[: FRAGMENT_BYTES + extra]
    expected = b""
    for start in range(0, len(payload), FRAGMENT_BYTES):
        stop = start + FRAGMENT_BYTES
        expected += frame(payload[start:stop], more=stop < len(payload))
    frames = encode_frames(payload)
    assert frames == expected
    assert feed_all(frames) == [payload]


def test_whatever_is_encoded_comes_back_in_order() -> None:
    payloads = [b"", b"a", bytes(FRAGMENT_BYTES + 1), b"b" * 5, b"", bytes(FRAGMENT_BYTES)]
    stream = b"".join(encode_frames(payload) for payload in payloads)
    step = (1 << 18) - 1
    assert feed_all(*(stream[at : at + step] for at in range(0, len(stream), step))) == payloads


@pytest.mark.parametrize("payloads", [[b""], [b"x"], [b"", b""], [b"ab", b"", b"c"], [b"\0\0\0\1", b"\x80\0\0\0"]])
def test_a_stream_cut_at_any_two_places_gives_the_same_messages(payloads: list[bytes]) -> None:
    stream = b"".join(map(frame, payloads))
    for first, second in combinations(range(len(stream) + 1), 2):
        assert feed_all(stream[:first], stream[first:second], stream[second:]) == payloads


def test_fragments_of_any_sizes_cut_at_any_place_make_one_message() -> None:
    for sizes in product(range(3), repeat=3):
        letters = iter(b"abcdef")
        pieces = [bytes(next(letters) for _ in range(size)) for size in sizes]
        stream = b"".join(frame(piece, more=number < 2) for number, piece in enumerate(pieces)) + frame(b"next")
        expected = [b"".join(pieces), b"next"]
        for cut in range(len(stream) + 1):
            assert feed_all(stream[:cut], stream[cut:]) == expected


def test_one_byte_at_a_time_is_enough() -> None:
    stream = frame(b"one", more=True) + frame(b"", more=True) + frame(b"two") + frame(b"") + frame(b"three")
    assert feed_all(*(bytes([byte]) for byte in stream)) == [b"onetwo", b"", b"three"]


def test_a_message_is_given_as_soon_as_its_last_byte_is_there() -> None:
    decoder = FrameDecoder()
    stream = frame(b"whole") + frame(b"half")
    assert decoder.feed(stream[:-1]) == [b"whole"]
    assert decoder.feed(b"") == []
    assert decoder.feed(stream[-1:]) == [b"half"]


def test_a_whole_frame_between_fragments_is_the_last_fragment() -> None:
    decoder = FrameDecoder()
    assert decoder.feed(frame(b"a", more=True)) == []
    assert decoder.feed(frame(b"b")) == [b"ab"]
    assert decoder.feed(frame(b"c")) == [b"c"]


@pytest.mark.parametrize("more", [False, True])
def test_a_frame_over_the_limit_is_refused_before_its_payload_has_come(more: bool) -> None:
    word = frame(b"x" * (FRAGMENT_BYTES + 1), more=more)[:4]
    with pytest.raises(ProtocolError, match=f"{FRAGMENT_BYTES + 1} bytes; the limit is {FRAGMENT_BYTES}"):
        feed_all(word)


def test_a_frame_over_the_limit_is_refused_also_when_it_comes_whole() -> None:
    with pytest.raises(ProtocolError, match=f"the limit is {FRAGMENT_BYTES}"):
        feed_all(frame(bytes(FRAGMENT_BYTES + 1)))


def test_text_in_place_of_frames_is_refused() -> None:
    """What a child process prints into a descriptor that it should not have."""
    with pytest.raises(ProtocolError):
        feed_all(b"Traceback (most recent call last):\n")


def test_fragments_may_not_add_up_to_more_than_a_message_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MESSAGE_BYTES_LIMIT > 1 << 30
    monkeypatch.setattr(framing, "MESSAGE_BYTES_LIMIT", 10)
    decoder = FrameDecoder()
    assert decoder.feed(frame(b"12345", more=True) + frame(b"67890")) == [b"1234567890"]
    assert decoder.feed(frame(b"12345", more=True) + frame(b"67890", more=True)) == []
    with pytest.raises(ProtocolError, match="more than 10 bytes"):
        decoder.feed(frame(b"1"))
