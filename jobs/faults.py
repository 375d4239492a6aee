"""How much of a release was lost to faults, and whether that is too much."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.flags import REASONS
from engine.units import Unit

TOO_MUCH_REJECTED = 3
"""Exit code of a job that has finished, but lost more to faults than the configuration allows."""


class Outcome(Protocol):
    """What became of one or many units: a ledger record or a manifest."""

    @property
    def rows_in(self) -> int:
        """Objects that the files held."""
        ...

    @property
    def rejected(self) -> Mapping[str, int]:
        """Rejected objects and files by reason."""
        ...

    @property
    def rejected_files(self) -> int:
        """How many of these are files, whose objects nobody could count."""
        ...


@dataclass(frozen=True)
class Verdict:
    """Share of what was read that is lost to faults, and the largest that is allowed."""

    fraction: float
    limit: float

    @property
    def exit_code(self) -> int:
        """0, or `TOO_MUCH_REJECTED`."""
        return TOO_MUCH_REJECTED if self.fraction > self.limit else 0

    @property
    def lines(self) -> list[str]:
        """What a person is told; nothing if all is well."""
        if not self.exit_code:
            return []
        text = f"{100 * self.fraction:.3g}% were faults, more than max_rejected_fraction = {self.limit}"
        return [f"{text}: exit code {self.exit_code}"]


def judge(units: Sequence[Unit], outcomes: Iterable[Outcome], limit: float) -> Verdict:
    """Return the larger of the shares of objects and of whole files that were lost; cuts do not count.

    They are not added up: a file that cannot be read hides an unknown number of objects.
    """
    objects = faults = lost_files = 0
    for outcome in outcomes:
        objects += outcome.rows_in
        faults += sum(n for reason, n in outcome.rejected.items() if REASONS[reason].kind == "fault")
        lost_files += outcome.rejected_files
    files = sum(map(_num_files, units))
    return Verdict(max((faults - lost_files) / max(objects, 1), lost_files / max(files, 1)), limit)


def _num_files(unit: Unit) -> int:
    """Files that hold objects; those of other roles (redshifts) only go with them."""
    return len(unit.missing) + sum(file.role == unit.files[0].role for file in unit.files)
