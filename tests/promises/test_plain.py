import json

import pytest

from capsule_kernel.promises.plain import PlainValues, without_pickle


@pytest.mark.parametrize(
    "text",
    [
        '{"__py_pickle": "x", "message": "no"}',
        '{"message": "no", "__\\u0070y_pickle": "x"}',
        ' {"__py_pickle": {"deep": 1}, "message": "no", "__py_pickle": "twice"}',
    ],
)
def test_the_field_that_would_be_unpickled_goes_however_it_is_written(text: str) -> None:
    assert json.loads(without_pickle(text.encode())) == {"message": "no"}


@pytest.mark.parametrize("text", ['{"message": "a\\\\b"}', '"__py_pickle"', "[1, 2]", "no JSON \\", '["__py_pickle"]'])
def test_everything_else_stays_as_it_is(text: str) -> None:
    assert without_pickle(text.encode()) == text.encode()


def test_what_another_encryptor_made_is_looked_into() -> None:
    class Reversed:
        def encrypt(self, data: bytes) -> bytes:
            return data[::-1]

        def decrypt(self, data: bytes) -> bytes:
            return data[::-1]

    values = PlainValues(Reversed())
    secret = b'{"message": "no", "__py_pickle": "x"}'
    assert values.encrypt(secret) == b'{"message":"no"}'[::-1]
    assert values.decrypt(secret[::-1]) == b'{"message":"no"}'
