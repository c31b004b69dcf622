"""Each message of the link comes back as it was, and what is no message of a direction is refused by its reader."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

from capsule_kernel.wire import worker_messages as messages

DIRECTIONS: dict[str, tuple[Any, Callable[[bytes], Any]]] = {
    "to worker": (messages.ToWorker, messages.decode_to_worker),
    "to reader": (messages.ToReader, messages.decode_to_reader),
    "from worker": (messages.FromWorker, messages.decode_from_worker),
    "to zygote": (messages.ToZygote, messages.decode_to_zygote),
    "from zygote": (messages.FromZygote, messages.decode_from_zygote),
}
VALUES: dict[Any, list[Any]] = {
    int: [0, 1, -1, 2**31, 2**63 - 1],
    bool: [False, True],
    str: ["", "x = 'é'\n\U0001f600\x00"],
    bytes: [b"", b'{"a":1}', bytes(range(256))],
    str | None: [None, "", "cell"],
    int | None: [None, 0, 7],
    list[str]: [[], ["a", "é"]],
    messages.Attempt | None: [None, *(messages.Attempt(event=event, serial=3) for event in messages.AttemptEvent)],
    list[bytes]: [[], [b"", b"\xff"]],
    list[Any]: [[], [[1, 2, "x"], [1, 3, ["in", None]]]],
    dict[str, str]: [{}, {"a": "é"}],
    dict[str, Any]: [{}, {"n": 1, "text": "é", "list": [1, 2.5, None, True, {"deep": []}]}],
}


def kinds(union: Any) -> list[type[msgspec.Struct]]:
    """The classes of a direction."""
    found: list[type[msgspec.Struct]] = list(get_args(union))
    return found


def tag_of(kind: type[msgspec.Struct]) -> int:
    tag = kind.__struct_config__.tag
    assert isinstance(tag, int)
    return tag


def samples(kind: type[msgspec.Struct]) -> list[msgspec.Struct]:
    """Messages whose fields take each of their values at least once; the last has defaults where there are any."""
    hints = get_type_hints(kind)
    options = {name: VALUES[hints[name]] for name in kind.__struct_fields__}
    count = max(map(len, options.values()), default=1)
    full = [kind(**{name: values[n % len(values)] for name, values in options.items()}) for n in range(count)]
    required = {field.name for field in msgspec.structs.fields(kind) if field.required}
    return [*full, kind(**{name: options[name][-1] for name in required})]


EVERY = [(direction, kind) for direction, (union, _) in DIRECTIONS.items() for kind in kinds(union)]


@pytest.mark.parametrize(("direction", "kind"), EVERY)
def test_a_message_comes_back_as_it_was(direction: str, kind: type[msgspec.Struct]) -> None:
    decode = DIRECTIONS[direction][1]
    for message in samples(kind):
        again = decode(messages.encode(message))
        assert again == message
        assert type(again) is kind


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_tags_are_used_once_in_a_direction(direction: str) -> None:
    tags = [tag_of(kind) for kind in kinds(DIRECTIONS[direction][0])]
    assert len(set(tags)) == len(tags)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("tag", [0, -1, 99, 2**40, "1", None, [1]])
def test_an_unknown_tag_is_refused(direction: str, tag: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        DIRECTIONS[direction][1](messages.encode([tag, 1, 2, 3]))


@pytest.mark.parametrize(("direction", "kind"), EVERY)
def test_a_message_of_the_wrong_shape_is_refused(direction: str, kind: type[msgspec.Struct]) -> None:
    decode = DIRECTIONS[direction][1]
    required = sum(field.required for field in msgspec.structs.fields(kind))
    if not required:
        return
    with pytest.raises(msgspec.ValidationError):
        decode(messages.encode([tag_of(kind)]))
    with pytest.raises(msgspec.ValidationError):
        decode(messages.encode([tag_of(kind), *[{"no": "such"}, object.__name__, 1.5] * required]))


@pytest.mark.parametrize(("direction", "kind"), EVERY)
def test_a_message_that_was_cut_off_or_goes_on_is_refused(direction: str, kind: type[msgspec.Struct]) -> None:
    decode = DIRECTIONS[direction][1]
    data = messages.encode(samples(kind)[0])
    for end in range(len(data)):
        with pytest.raises(msgspec.DecodeError):
            decode(data[:end])
    with pytest.raises(msgspec.DecodeError):
        decode(data + b"\xc0")


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("data", [b"", b"\xc1", b"text", b"\xc0", b"\x80", b"\x90", b"\x93\x01"])
def test_what_is_no_message_is_refused(direction: str, data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        DIRECTIONS[direction][1](data)


@pytest.mark.parametrize(("direction", "kind"), EVERY)
def test_a_newer_peer_may_add_fields_at_the_end(direction: str, kind: type[msgspec.Struct]) -> None:
    message = samples(kind)[0]
    decode = DIRECTIONS[direction][1]
    longer = [*msgspec.msgpack.decode(messages.encode(message)), "added later"]
    assert decode(messages.encode(longer)) == message


@pytest.mark.parametrize("kind", [messages.WorkerOptions, messages.ZygoteOptions])
def test_options_survive_both_encodings(kind: type[msgspec.Struct]) -> None:
    for options in samples(kind):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(options), type=kind) == options
        assert msgspec.json.decode(msgspec.json.encode(options), type=kind) == options


def test_the_fronts_interrupt_is_a_signal_that_nobody_else_sends() -> None:
    assert signal.SIGRTMIN < messages.INTERRUPT_SIGNAL < signal.SIGRTMAX
    assert messages.NO_PARENT == 0
