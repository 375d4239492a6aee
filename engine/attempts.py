"""Which units may be tried again: one that ends each worker that has it in hand is given up, not tried for ever.

A worker that is killed or crashes tells nobody why. So it says beforehand which unit it takes in hand, and afterwards
that it is done with it: an attempt that has begun and not ended, when the next one begins, ended with its worker.
Nothing here knows Ray.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

Answer = Literal["begun", "alone", "hopeless"]
"""The attempt has begun; it may begin where nothing else is in hand; there were enough of them."""

NODES_A_WORKER = 3
"""Nodes come and go, and take the units along that they have in hand: so many of them count as one worker that died."""


class Attempts(Protocol):
    """Whom a worker asks before it takes a unit in hand."""

    def begin(self, key: str, is_alone: bool) -> Answer:
        """Begin an attempt at something; `is_alone` if nothing else is in hand that its end would take along."""
        ...

    def end(self, key: str) -> None:
        """Be done with it, well or with an error."""
        ...


class Unlimited:
    """Whatever dies, it is tried again."""

    def begin(self, key: str, is_alone: bool) -> Answer:  # noqa: ARG002 - as the protocol says
        """Begin."""
        return "begun"

    def end(self, key: str) -> None:
        """Forget it."""


class Tally:
    """Counts the attempts of all workers.

    Parameters
    ----------
    limit
        Workers that may die of a unit; of nodes that are gone `NODES_A_WORKER` times as many.
    living
        Returns the nodes that there are; asked only where a worker has died.
    """

    def __init__(self, limit: int, living: Callable[[], Collection[str]]) -> None:
        self._limit, self._living = limit, living
        self._begun: dict[str, list[str]] = defaultdict(list)  # nodes of attempts without an end

    def begin(self, key: str, node: str, is_alone: bool) -> Answer:
        """Begin an attempt on a node, unless it must be alone, or there were enough of them."""
        nodes = self._begun[key]
        if nodes and self._is_hopeless(nodes):
            return "hopeless"
        if nodes and not is_alone:
            return "alone"
        nodes.append(node)
        return "begun"

    def end(self, key: str) -> None:
        """Forget the attempts at something."""
        self._begun.pop(key, None)

    def _is_hopeless(self, nodes: list[str]) -> bool:
        there = self._living()
        return (
            sum(node in there for node in nodes) >= self._limit or len(nodes) >= NODES_A_WORKER * self._limit
        )


class Room:
    """Where threads of a worker have units in hand: several together, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside, self._waiting, self._is_taken = 0, 0, False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Be inside together with others; who wants to be alone goes first."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._is_taken or self._waiting))
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be inside when all others have left."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not (self._is_taken or self._inside))
            self._waiting -= 1
            self._is_taken = True
        try:
            yield
        finally:
            with self._changed:
                self._is_taken = False
                self._changed.notify_all()


@contextmanager
def attempt(attempts: Attempts, room: Room, key: str) -> Iterator[bool]:
    """Have something in hand inside the `with`; False if it is to be given up.

    What a worker has died of is tried in a worker that has nothing else in hand: else two units that always come
    together would be given up for what one of them does.
    """
    with room.shared():
        answer = attempts.begin(key, False)
        if answer != "alone":
            with _ended(attempts, key, answer) as may_begin:
                yield may_begin
            return
    with room.alone(), _ended(attempts, key, attempts.begin(key, True)) as may_begin:
        yield may_begin


@contextmanager
def _ended(attempts: Attempts, key: str, answer: Answer) -> Iterator[bool]:
    """End an attempt that has begun."""
    try:
        yield answer == "begun"
    finally:
        if answer == "begun":
            attempts.end(key)
