import base64
import pickle

import pytest

from capsule_kernel.promises.model import Promise, decode_value, encode_value


@pytest.mark.parametrize("data", [None, "Alice", 3, [1, 2], {"text": "ä"}, True, ""])
def test_what_was_encoded_comes_back(data: object) -> None:
    assert decode_value(encode_value(data)) == data


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ('{"data": "Alice"}', "Alice"),
        ('{"data": "Alic"}', "Alic"),
        ('{"data": "QWxpY2U="}', "Alice"),
        ('{"data": {"text": "Alice"}}', {"text": "Alice"}),
        ("{}", None),
        ('"Alice"', "Alice"),
        ("[1]", [1]),
        ("no JSON", "no JSON"),
    ],
)
def test_what_others_wrote_is_json_or_else_text(value: str, data: object) -> None:
    assert decode_value(value) == data


def test_a_pickle_stays_text() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return exec, ("raise SystemExit('unpickled')",)

    payload = base64.b64encode(pickle.dumps(Bomb())).decode()
    error = {"__type": "error", "message": "no", "__py_pickle": payload}
    assert decode_value(encode_value(error)) == error
    assert decode_value(f'{{"data": "{payload}"}}') == payload


def test_headers_are_read_with_the_value() -> None:
    promise = Promise(id="a", value=encode_value(1, {"by": "me"}), timeout_at_ms=1, created_at_ms=0)
    assert promise.value_headers() == {"by": "me"}
    assert promise.value_data() == 1
    assert Promise(id="a", value='{"headers": 3}', timeout_at_ms=1, created_at_ms=0).value_headers() == {}
