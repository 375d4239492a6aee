"""What workers count for Prometheus: names, meanings and labels. Ray exports them; nothing here knows Ray."""

from dataclasses import dataclass
from typing import Literal, Protocol

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Upper edges of the classes of durations [s]."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that a worker tells; Ray puts `ray_` before its name, and `_total` behind that of a counter."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    labels: tuple[str, ...]


UNITS = Metric("trawl_units", "counter", "Units of work written", ("run", "model"))
ROWS = Metric("trawl_rows", "counter", "Rows written", ("run", "model"))
REJECTED = Metric(
    "trawl_rejected", "counter", "Objects and files rejected, by reason", ("run", "model", "reason")
)
BYTES_FETCHED = Metric("trawl_bytes_fetched", "counter", "Bytes read from storage [bytes]", ("run",))
BYTES_WRITTEN = Metric(
    "trawl_bytes_written", "counter", "Bytes of fragments written [bytes]", ("run", "model")
)
STAGE_SECONDS = Metric(
    "trawl_stage_seconds",
    "histogram",
    "Time of a unit in a stage [s]; reading and writing count as stages",
    ("run", "stage"),
)
IN_HAND = Metric("trawl_units_in_hand", "gauge", "Units that a worker has in hand", ("run",))

METRICS = (UNITS, ROWS, REJECTED, BYTES_FETCHED, BYTES_WRITTEN, STAGE_SECONDS, IN_HAND)


class Meter(Protocol):
    """Where a worker tells its numbers."""

    def add(self, metric: Metric, amount: float, **labels: str) -> None:
        """Add to a counter, set a gauge, or note a value of a histogram."""
        ...


class NoMeter:
    """Tells nobody."""

    def add(self, metric: Metric, amount: float, **labels: str) -> None:
        """Forget it."""
