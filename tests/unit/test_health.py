"""Health: when a worker should be restarted, and when it may be given work."""

import pytest

from stream_classifier.observe.health import Health


class Worker:
    """A worker's state and clock, as the health sees them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pending = False
        self.broker_answers = True
        self.health = Health(
            pending=lambda: self.pending,
            broker_answers=lambda: self.broker_answers,
            liveness_timeout_s=60,
            clock=lambda: self.now,
        )

    def livez_after(self, seconds: float) -> int:
        """The status of a probe so much later."""
        self.now += seconds
        return self.health.livez()[0]


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_idle_worker_is_alive_for_ever(worker: Worker) -> None:
    assert [worker.livez_after(1e6) for _ in range(3)] == [200, 200, 200]


def test_pending_work_without_delivery_fails_liveness_at_the_timeout(worker: Worker) -> None:
    worker.pending = True
    assert [worker.livez_after(0), worker.livez_after(59.9), worker.livez_after(0.1)] == [200, 200, 503]
    status, body = worker.health.livez()
    assert (status, body["status"], body["stalled_s"], body["liveness_timeout_s"]) == (503, "stalled", 60.0, 60)


def test_deliveries_keep_a_busy_worker_alive(worker: Worker) -> None:
    worker.pending = True
    for _ in range(20):
        assert worker.livez_after(30) == 200
        worker.health.delivered()


def test_delivery_at_the_very_moment_of_a_probe_does_not_hide_a_later_stall(worker: Worker) -> None:
    worker.pending = True
    worker.health.delivered()
    assert worker.livez_after(0) == 200
    assert worker.livez_after(30) == 200
    assert worker.livez_after(30) == 503


@pytest.mark.parametrize("pending", [True, False])
def test_a_broker_that_is_away_is_what_it_says_whether_work_was_read_or_not(worker: Worker, pending: bool) -> None:
    worker.pending, worker.broker_answers = pending, False
    status, body = worker.health.livez()
    assert (status, body["reason"]) == (200, "the broker does not answer: a restart would not help")


def test_stalled_worker_that_delivers_again_is_alive_again(worker: Worker) -> None:
    worker.pending = True
    assert [worker.livez_after(0), worker.livez_after(100)] == [200, 503]
    worker.health.delivered()
    assert [worker.livez_after(10), worker.livez_after(59), worker.livez_after(1)] == [200, 200, 503]


def test_work_arriving_after_an_idle_hour_gets_the_whole_timeout(worker: Worker) -> None:
    worker.health.delivered()
    assert worker.livez_after(3600) == 200
    worker.pending = True
    assert [worker.livez_after(10), worker.livez_after(59), worker.livez_after(1)] == [200, 200, 503]


def test_work_given_up_without_delivery_is_not_held_against_the_next(worker: Worker) -> None:
    worker.pending = True
    worker.livez_after(0)
    worker.pending = False  # a rebalance took it away
    worker.livez_after(10)
    worker.pending = True
    assert [worker.livez_after(1000), worker.livez_after(59), worker.livez_after(1)] == [200, 200, 503]


def test_rare_probes_do_not_add_up_two_separate_pieces_of_work(worker: Worker) -> None:
    worker.pending = True
    assert worker.livez_after(0) == 200
    worker.health.delivered()
    assert worker.livez_after(3600) == 200  # the first piece was delivered: this is another one


def test_broker_that_does_not_answer_excuses_the_worker_and_its_return_starts_anew(worker: Worker) -> None:
    worker.pending = True
    worker.livez_after(0)
    worker.broker_answers = False
    assert [worker.livez_after(50), worker.livez_after(500)] == [200, 200]
    worker.broker_answers = True
    assert [worker.livez_after(1), worker.livez_after(59), worker.livez_after(1)] == [200, 200, 503]


@pytest.mark.parametrize("models_first", [True, False])
def test_ready_once_models_are_warm_and_an_assignment_was_received(worker: Worker, models_first: bool) -> None:
    assert worker.health.readyz() == (503, {"status": "starting", "waiting_for": ["models", "assignment"]})
    steps = [worker.health.warm, worker.health.assigned]
    first, second = steps if models_first else reversed(steps)
    first()
    missing = "assignment" if models_first else "models"
    assert worker.health.readyz() == (503, {"status": "starting", "waiting_for": [missing]})
    second()
    assert worker.health.readyz() == (200, {"status": "ready"})


def test_starting_worker_is_alive(worker: Worker) -> None:
    assert worker.health.livez()[0] == 200
