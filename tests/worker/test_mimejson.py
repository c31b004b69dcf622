"""What Python puts into MIME bundles becomes JSON that every front end can read, by the fast way and the slow one."""

from __future__ import annotations

import base64
import collections
import decimal
import enum
import fractions
import json
import math
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from capsule_kernel.worker.mimejson import encode_content


class Text(str):
    """A string of a library's own, as markupsafe's."""

    __slots__ = ()


class Number(enum.IntEnum):
    ONE = 1


class Colour(enum.StrEnum):
    RED = "red"


class Mapping(dict[str, Any]):
    """A dict of a library's own."""


class Sequence(list[Any]):
    """A list of a library's own."""


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Record:
    a: int


class Opaque:
    def __repr__(self) -> str:
        return "<opaque>"


NAN = float("nan")
VALUES: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    (0, 0),
    (-1, -1),
    (2**63, 2**63),
    (2**64, 2**64),
    (-(2**70), -(2**70)),
    (1.5, 1.5),
    (1e300, 1e300),
    (NAN, None),
    (math.inf, None),
    (-math.inf, None),
    ("", ""),
    ("é \U0001f600 \u2028 \x00", "é \U0001f600 \u2028 \x00"),
    (Text("text"), "text"),
    ([1, [2, NAN]], [1, [2, None]]),
    ((1, 2), [1, 2]),
    (Point(1, 2), [1, 2]),
    ({1}, [1]),
    (frozenset({1}), [1]),
    (range(3), [0, 1, 2]),
    (collections.deque([1]), [1]),
    (Sequence([1]), [1]),
    ({"a": {"b": NAN}}, {"a": {"b": None}}),
    (Mapping(a=1), {"a": 1}),
    (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (collections.defaultdict(int, a=1), {"a": 1}),
    ({1: "int", 1.5: "float"}, {"1": "int", "1.5": "float"}),
    (b"\x00\xff", base64.b64encode(b"\x00\xff").decode()),
    (bytearray(b"ab"), base64.b64encode(b"ab").decode()),
    (memoryview(b"ab"), base64.b64encode(b"ab").decode()),
    (Number.ONE, 1),
    (Colour.RED, "red"),
    (fractions.Fraction(1, 2), 0.5),
    (datetime(2024, 5, 1, 12, 30), "2024-05-01T12:30:00"),  # noqa: DTZ001 - users have them
    (datetime(2024, 5, 1, 12, 30, 1, 500, tzinfo=UTC), "2024-05-01T12:30:01.000500Z"),
    (date(2024, 5, 1), "2024-05-01"),
    (time(12, 30), "12:30:00"),
    (timedelta(seconds=90), "PT90S"),
    (decimal.Decimal("1.50"), "1.50"),
    (uuid.UUID(int=1), str(uuid.UUID(int=1))),
    (Record(1), {"a": 1}),
    (Opaque(), "<opaque>"),
    (PurePosixPath("/a"), "PurePosixPath('/a')"),
    (np.int64(7), 7),
    (np.uint64(2**64 - 1), 2**64 - 1),
    (np.float32(1.5), 1.5),
    (np.float64(1.5), 1.5),
    (np.float64("nan"), None),
    (np.bool_(True), True),
    (np.str_("é"), "é"),
    (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    (np.array([1.5, NAN]), [1.5, None]),
    (np.array([True]), [True]),
    (np.array(5), 5),
]


def name_of(value: Any) -> str:
    """A name that is the same in every process: without addresses."""
    return repr(value).partition(" at 0x")[0][:30]


@pytest.mark.parametrize(("value", "expected"), VALUES, ids=name_of)
def test_a_value_becomes_json(value: Any, expected: Any) -> None:
    assert json.loads(encode_content({"value": value})) == {"value": expected}
    assert json.loads(encode_content({"data": {"a/b": [value]}})) == {"data": {"a/b": [expected]}}


@pytest.mark.parametrize(("value", "expected"), VALUES, ids=name_of)
def test_a_value_becomes_the_same_beside_one_that_needs_the_slow_way(value: Any, expected: Any) -> None:
    for beside, encoded in (("\ud800", "?"), (2**80, 2**80)):
        assert json.loads(encode_content({"value": value, "beside": beside})) == {"value": expected, "beside": encoded}


@pytest.mark.parametrize("value", [value for value, _ in VALUES], ids=name_of)
def test_what_is_made_is_json_in_the_strict_sense(value: Any) -> None:
    """No NaN, no lone surrogates: msgspec refuses both, as browsers do."""
    for content in ({"value": value}, {"value": value, "beside": "\udfff"}):
        msgspec.json.decode(encode_content(content))


@pytest.mark.parametrize("text", ["\ud800", "a\udcffb", "\udfff\ud800"])
def test_lone_surrogates_become_question_marks(text: str) -> None:
    marked = "".join("?" if 0xD800 <= ord(character) < 0xE000 else character for character in text)
    assert json.loads(encode_content({text: [text, {"in": text}]})) == {marked: [marked, {"in": marked}]}


def test_a_generator_is_a_list() -> None:
    assert json.loads(encode_content({"value": (n for n in range(3))})) == {"value": [0, 1, 2]}


def test_what_contains_itself_is_an_error_and_not_a_crash() -> None:
    content: dict[str, Any] = {}
    content["self"] = content
    with pytest.raises(RecursionError):
        encode_content(content)


def test_a_large_text_is_not_changed() -> None:
    text = "é" * 1_000_000
    assert json.loads(encode_content({"data": {"text/plain": text}}))["data"]["text/plain"] == text
