from capsule_kernel.promises.patience import Backoff, Breaker


def test_waits_double_up_to_a_bound_and_differ_by_chance() -> None:
    backoff = Backoff(first_s=1, max_s=5)
    assert [backoff.delay_s(attempt, 1.0) for attempt in range(5)] == [1, 2, 4, 5, 5]
    assert [backoff.delay_s(attempt, 0.0) for attempt in range(3)] == [0.5, 1, 2]
    assert backoff.delay_s(10_000, 0.5) == 3.75


def test_the_breaker_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(failures_max=3, pause_s=10)
    for _ in range(5):
        breaker.failed(0)
        breaker.failed(0)
        breaker.succeeded()
    assert breaker.closed_in_s(0) == 0
    for _ in range(3):
        breaker.failed(100)
    assert breaker.closed_in_s(104) == 6
    assert "open" in repr(breaker)


def test_an_open_breaker_lets_one_request_try() -> None:
    breaker = Breaker(failures_max=1, pause_s=10)
    breaker.failed(0)
    assert breaker.closed_in_s(10) == 0
    assert breaker.closed_in_s(10) > 0
    assert "half-open" in repr(breaker)
    breaker.failed(11)
    assert breaker.closed_in_s(20) == 1
    assert breaker.closed_in_s(21) == 0
    breaker.succeeded()
    assert breaker.closed_in_s(21) == 0
    assert repr(breaker) == "<Breaker closed, 0 failures>"


def test_a_request_that_was_withdrawn_leaves_the_try_to_another() -> None:
    breaker = Breaker(failures_max=1, pause_s=10)
    breaker.failed(0)
    assert breaker.closed_in_s(10) == 0
    breaker.gave_up()
    assert breaker.closed_in_s(10) == 0
