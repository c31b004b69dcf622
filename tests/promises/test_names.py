import pytest

from capsule_kernel.errors import InvalidPromiseId
from capsule_kernel.promises import names


def test_the_same_request_always_has_the_same_id() -> None:
    execution_id = names.execution_id("b2c4-11", 7)
    assert names.execution(execution_id) == "exec:b2c4-11-7"
    assert names.input_request(execution_id, 2) == "b2c4-11-7:input:2"
    assert names.approval(execution_id, 1) == "b2c4-11-7:approve:1"


@pytest.mark.parametrize("promise_id", ["exec:k-1", "k-1:input:3", "nightly-42-0:approve:1"])
def test_an_id_tells_what_it_was_made_of(promise_id: str) -> None:
    name = names.parse(promise_id)
    assert name is not None
    made = {
        names.EXECUTION: names.execution(name.execution_id),
        names.INPUT: names.input_request(name.execution_id, name.ordinal),
        names.APPROVAL: names.approval(name.execution_id, name.ordinal),
    }
    assert made[name.kind] == promise_id


@pytest.mark.parametrize(
    "promise_id", ["", "exec", "exec:", "exec:a.b", "k:input:x", "k:input:1:2", "other:k", "run-1"]
)
def test_ids_of_others_are_nobodys(promise_id: str) -> None:
    assert names.parse(promise_id) is None


@pytest.mark.parametrize("text", ["", "a:b", "a.b", "a b", "ä"])
def test_parts_that_would_change_an_ids_origin_are_refused(text: str) -> None:
    with pytest.raises(InvalidPromiseId, match="cannot be part"):
        names.execution(text)


def test_a_kernels_id_becomes_a_part_whatever_it_holds() -> None:
    assert names.kernel_part("kernel:1.a/b") == "kernel_1_a_b"
