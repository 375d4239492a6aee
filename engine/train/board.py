"""Messages of the workers to the driver while a training run goes on."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

POST_EVERY_S = 10.0
"""Shortest time between two messages about steps from a worker."""


class Board:
    """An actor that carries messages from worker 0 to the driver."""

    def __init__(self) -> None:
        self._messages: list[dict[str, float]] = []

    def post(self, message: dict[str, float]) -> None:
        """Append a message."""
        self._messages.append(message)

    def take(self) -> list[dict[str, float]]:
        """Return the messages since the last call."""
        messages, self._messages = self._messages, []
        return messages


@contextmanager
def forwarded(board: Any, on_progress: Callable[[dict[str, float]], None]) -> Iterator[None]:
    """Hand the workers' messages to `on_progress` from a thread, while `fit` blocks this one."""
    finished = threading.Event()

    def forward() -> None:
        while True:
            last = finished.wait(0.5)
            for message in ray.get(board.take.remote()):
                on_progress(message)
            if last:
                return

    thread = threading.Thread(target=forward, name="training-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


class Poster:
    """Posts epochs, and steps at most every `POST_EVERY_S`."""

    def __init__(self, board: Any, is_active: bool) -> None:
        self._board, self._is_active = board, is_active
        self._last = time.monotonic()

    def post(self, metrics: Mapping[str, float]) -> None:
        """Send a message."""
        if self._is_active:
            self._board.post.remote(metrics)
            self._last = time.monotonic()

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send metrics of a step, if the last message is old enough."""
        if time.monotonic() - self._last > POST_EVERY_S:
            self.post({"step": float(step), **metrics})
