"""Messages are framed, signed and named as jupyter_client's `Session` does it, which is the oracle here, both ways."""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime
from typing import Any

import pytest
from jupyter_client.session import Session, json_packer

from capsule_kernel.clock import Clock
from capsule_kernel.errors import ConfigurationError, MessageRejected
from capsule_kernel.wire.jupyter import DELIMITER, PROTOCOL, Wire, encode_json

KEY = b"a0436f6c-1916-498b-8eb9-e81ab9368e84"
SCHEMES = ["hmac-sha256", "hmac-sha1", "hmac-md5", "hmac-sha512", "hmac-sha3_256", "hmac-blake2b"]
CONTENTS: list[dict[str, Any]] = [
    {},
    {"code": "x = 1", "silent": False},
    {"text": 'é ✓ \U0001f600 \u2028 \x00 " \\', "nested": [1, 2.5, None, {"a": []}]},
]
HEADER = b'{"msg_id":"1_1","msg_type":"kernel_info_request"}'


def wire(key: bytes = KEY, scheme: str = "hmac-sha256", username: str = "user") -> Wire:
    return Wire(key=key, signature_scheme=scheme, session="5e55", username=username)


def client(key: bytes = KEY, scheme: str = "hmac-sha256") -> Session:
    return Session(key=key, signature_scheme=scheme, username="somebody")


def received(session: Session, frames: list[bytes]) -> dict[str, Any]:
    """What jupyter_client makes of frames that it was sent."""
    _, rest = session.feed_identities(frames)
    message: dict[str, Any] = session.deserialize(rest)
    return message


def signed(*frames: bytes, key: bytes = KEY) -> list[bytes]:
    """Four frames with a signature that is right, whatever they hold."""
    return [DELIMITER, hmac.new(key, b"".join(frames), "sha256").hexdigest().encode(), *frames]


def reason(frames: list[bytes], by: Wire) -> str:
    with pytest.raises(MessageRejected) as caught:
        by.decode(frames)
    return caught.value.reason


# --- what the kernel sends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("content", CONTENTS)
def test_jupyter_client_accepts_what_the_kernel_signs(scheme: str, content: dict[str, Any]) -> None:
    parent = client(scheme=scheme).msg_header("execute_request")
    frames = wire(scheme=scheme).encode(
        "execute_reply",
        encode_json(content),
        parent=json_packer(parent),
        date="2024-05-01T12:00:00.123456Z",
        metadata=b'{"k":"v"}',
        buffers=[b"one", b"", b"\x00\xff"],
        idents=[b"a", b"b"],
    )
    assert frames[:3] == [b"a", b"b", DELIMITER]
    message = received(client(scheme=scheme), frames)
    assert message["content"] == content
    assert message["metadata"] == {"k": "v"}
    assert message["parent_header"]["msg_id"] == parent["msg_id"]
    assert [bytes(buffer) for buffer in message["buffers"]] == [b"one", b"", b"\x00\xff"]


@pytest.mark.parametrize("username", ["user", "Zoë", 'quo"te', "back\\slash", "", "\U0001f600"])
def test_a_header_has_all_fields_of_the_messaging_document(username: str) -> None:
    frames = wire(username=username).encode("status", b"{}", parent=b"{}", date=Clock().iso_now())
    header = received(client(), frames)["header"]
    assert isinstance(header.pop("date"), datetime)
    assert header == {
        "msg_id": "5e55_1",
        "msg_type": "status",
        "session": "5e55",
        "username": username,
        "version": PROTOCOL,
    }


def test_message_ids_never_come_twice_in_a_kernels_life() -> None:
    sender = wire()
    ids = [
        received(client(), sender.encode(kind, b"{}", parent=b"{}", date=""))["header"]["msg_id"]
        for kind in ["status", "stream", "status"] * 10
    ]
    assert len(set(ids)) == len(ids)


def test_without_a_key_the_signature_is_empty() -> None:
    frames = wire(key=b"").encode("status", b"{}", parent=b"{}", date="")
    assert frames[1] == b""
    assert received(client(key=b""), frames)["content"] == {}


# --- what the kernel receives ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("content", CONTENTS)
def test_the_kernel_accepts_what_jupyter_client_signs(scheme: str, content: dict[str, Any]) -> None:
    session = client(scheme=scheme)
    sent = session.msg("execute_request", content, metadata={"cellId": "c"})
    frames = [*session.serialize(sent, ident=[b"front", b"end"]), b"buffer", b""]
    message = wire(scheme=scheme).decode(frames)
    assert message.idents == [b"front", b"end"]
    assert message.header.msg_id == sent["header"]["msg_id"]
    assert message.header.msg_type == "execute_request"
    assert message.header.session == session.session
    assert message.header.username == "somebody"
    assert message.header.subshell_id is None
    assert message.raw_content == json_packer(content)
    assert message.raw_metadata == b'{"cellId":"c"}' or session.unpack(message.raw_metadata) == {"cellId": "c"}
    assert session.unpack(message.raw_header) == session.unpack(json_packer(sent["header"]))
    assert message.buffers == [b"buffer", b""]


def test_without_a_key_signed_and_unsigned_messages_are_taken_and_repeated() -> None:
    receiver = wire(key=b"")
    for signature in (b"", b"whatever", b""):
        frames = [DELIMITER, signature, HEADER, b"{}", b"{}", b"{}"]
        assert receiver.decode(frames).header.msg_type == "kernel_info_request"


def test_a_buffer_that_looks_like_the_delimiter_is_a_buffer() -> None:
    frames = [*signed(HEADER, b"{}", b"{}", b"{}"), DELIMITER, b"x"]
    assert wire().decode(frames).buffers == [DELIMITER, b"x"]


def test_fields_that_a_header_may_lack_have_defaults_and_unknown_ones_are_ignored() -> None:
    header = wire(key=b"").decode([DELIMITER, b"", b'{"msg_id":"1","msg_type":"t","new":[{}]}', b"", b"", b""]).header
    assert (header.session, header.username, header.date, header.subshell_id) == ("", "", "", None)


def test_a_replayed_message_is_dropped_and_others_go_on() -> None:
    session, receiver = client(), wire()
    first, second = (session.serialize(session.msg("kernel_info_request")) for _ in range(2))
    receiver.decode(first)
    receiver.decode(second)
    assert "replayed" in reason(first, receiver)
    assert "replayed" in reason(second, receiver)
    receiver.decode(session.serialize(session.msg("kernel_info_request")))


def test_a_forged_message_does_not_use_up_the_signature_that_it_stole() -> None:
    session, receiver = client(), wire()
    frames = session.serialize(session.msg("execute_request", {"code": "1"}))
    forged = [*frames[:-1], b'{"code":"2"}']
    assert "does not match" in reason(forged, receiver)
    assert receiver.decode(frames).raw_content == json_packer({"code": "1"})


@pytest.mark.parametrize("place", range(2, 6))
def test_a_change_in_any_signed_frame_is_noticed(place: int) -> None:
    session = client()
    frames = session.serialize(session.msg("execute_request", {"code": "1"}))
    frames[place] += b" "
    assert "does not match" in reason(frames, wire())


@pytest.mark.parametrize("key", [b"another key", KEY + b"0"])
def test_a_wrong_key_is_noticed(key: bytes) -> None:
    session = client(key=key)
    assert "wrong key" in reason(session.serialize(session.msg("kernel_info_request")), wire())


@pytest.mark.parametrize("signature", [b"0" * 64, b"\xff\xfe", b"0", "é".encode()])
def test_a_signature_that_is_none_is_noticed(signature: bytes) -> None:
    assert "does not match" in reason([DELIMITER, signature, HEADER, b"{}", b"{}", b"{}"], wire())


def test_an_unsigned_message_is_dropped_where_there_is_a_key() -> None:
    unsigned = client(key=b"")
    assert "not signed" in reason(unsigned.serialize(unsigned.msg("kernel_info_request")), wire())


@pytest.mark.parametrize("frames", [[], [b""], [b"a", b"b"], [DELIMITER + b" ", b"", HEADER, b"{}", b"{}", b"{}"]])
def test_frames_without_a_delimiter_are_dropped(frames: list[bytes]) -> None:
    assert f"among {len(frames)} frames" in reason(frames, wire())


@pytest.mark.parametrize("count", range(5))
def test_a_message_with_too_few_frames_is_dropped(count: int) -> None:
    frames = [b"ident", DELIMITER, b"", HEADER, b"{}", b"{}", b"{}"][: 2 + count]
    assert f"{count} frames after the delimiter; at least 5" in reason(frames, wire(key=b""))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"msg_id":"\xff","msg_type":"t"}',
        b'{"msg_id":"\\ud800","msg_type":"t"}',
        b'{"msg_id":"1"}',
        b'{"msg_type":"t"}',
        b'{"msg_id":1,"msg_type":"t"}',
        b'{"msg_id":"1","msg_type":null}',
        b'{"msg_id":"1","msg_type":"t"} trailing',
        pytest.param(b'{"msg_id":"1","msg_type":"t","deep":' + b"[" * 100_000, id="deep"),
    ],
)
def test_a_header_that_is_none_is_dropped(header: bytes) -> None:
    assert "header is not valid" in reason(signed(header, b"{}", b"{}", b"{}"), wire())


@pytest.mark.parametrize("scheme", ["", "sha256", "hmac-", "hmac-nothing", "hmac-SHA256", "hmac-shake_128"])
def test_an_unknown_signature_scheme_is_refused_with_a_remedy(scheme: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        wire(scheme=scheme)
    text = str(caught.value)
    assert repr(scheme) in text
    assert "hmac-sha256" in text


def test_signatures_are_those_of_the_messaging_document() -> None:
    """HMAC hex digest of the four serialized dicts, in order."""
    frames = wire().encode("status", b'{"execution_state":"idle"}', parent=b"{}", date="2024-01-01T00:00:00Z")
    digest = hmac.new(KEY, digestmod=hashlib.sha256)
    for frame in frames[2:]:
        digest.update(frame)
    assert frames[1] == digest.hexdigest().encode()
