"""A unit that its workers die of is given up, and no other for it."""

import threading
import time

import pytest

from engine.attempts import NODES_A_WORKER, Answer, Room, Tally, attempt


class Here:
    """Attempts of workers on one node, in this process."""

    def __init__(self, limit: int = 3) -> None:
        self.tally = Tally(limit, lambda: {"node"})

    def begin(self, key: str, is_alone: bool) -> Answer:
        return self.tally.begin(key, "node", is_alone)

    def end(self, key: str) -> None:
        self.tally.end(key)


def test_after_so_many_workers_there_is_no_hope() -> None:
    tally = Tally(3, lambda: {"node"})
    answers = [tally.begin("unit", "node", True) for _ in range(5)]
    assert answers == ["begun", "begun", "begun", "hopeless", "hopeless"]
    assert tally.begin("other", "node", False) == "begun"


def test_attempt_that_ended_does_not_count() -> None:
    tally = Tally(1, lambda: {"node"})
    for _ in range(3):
        assert tally.begin("unit", "node", False) == "begun"
        tally.end("unit")


def test_second_attempt_must_be_alone_and_asking_is_no_attempt() -> None:
    tally = Tally(2, lambda: {"node"})
    assert tally.begin("unit", "node", False) == "begun"
    assert [tally.begin("unit", "node", False) for _ in range(3)] == ["alone"] * 3
    assert tally.begin("unit", "node", True) == "begun"
    assert tally.begin("unit", "node", False) == "hopeless"


def test_nodes_that_are_gone_count_less_but_do() -> None:
    tally = Tally(2, lambda: {"there"})
    answers = [tally.begin("unit", f"gone-{n}", True) for n in range(2 * NODES_A_WORKER + 1)]
    assert answers == ["begun"] * (2 * NODES_A_WORKER) + ["hopeless"]
    assert [tally.begin("other", node, True) for node in ("gone", "there", "gone", "there", "x")] == [
        "begun", "begun", "begun", "begun", "hopeless",
    ]  # fmt: skip


def test_what_was_tried_before_runs_alone_and_before_all_that_comes_later() -> None:
    attempts, room, log = Here(), Room(), list[str]()
    attempts.begin("tried", False)  # its worker died
    first_is_in, first_may_go = threading.Event(), threading.Event()

    def first() -> None:
        with attempt(attempts, room, "first"):
            first_is_in.set()
            assert first_may_go.wait(30)
            log.append("first ends")

    def work(key: str) -> None:
        with attempt(attempts, room, key) as may_begin:
            log.append(f"{key} {may_begin}")
            time.sleep(0.05)
            log.append(f"{key} ends")

    threads = [threading.Thread(target=first)]
    threads[0].start()
    assert first_is_in.wait(30)
    for key in ("tried", "later"):
        threads.append(threading.Thread(target=work, args=[key]))
        threads[-1].start()
        while key == "tried" and not room._waiting:
            time.sleep(0.001)
    first_may_go.set()
    for thread in threads:
        thread.join(30)
    assert log == ["first ends", "tried True", "tried ends", "later True", "later ends"]


def test_error_ends_an_attempt_and_leaves_the_room() -> None:
    attempts, room = Here(limit=1), Room()
    for _ in range(2):
        with pytest.raises(OSError, match="gone"), attempt(attempts, room, "unit"):
            raise OSError("gone")
    attempts.begin("tried", False)
    with attempt(attempts, room, "tried") as may_begin:
        assert not may_begin
    with room.alone(), pytest.raises(RuntimeError):
        raise RuntimeError
    with room.shared(), room.shared():
        pass
