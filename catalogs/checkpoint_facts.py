"""What a report tells of the checkpoint that scored: how good its guess of kinds is, and who its reference objects are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.synthetic.anomalies import KINDS

MIN_TARGETID = 2**22
"""A TARGETID has the brick from this bit on; less is a number in a sample that was simulated."""


@dataclass(frozen=True)
class CheckpointFacts:
    """Facts of a checkpoint.

    Parameters
    ----------
    confusion
        Kind of injected anomaly to how many were taken for `artefact` and for `physical`; empty if nobody counted.
    reference_class
        Class of each object that can be a nearest neighbour, by id.
    score_parts
        Of how many calibrated scores `off_manifold_score` and `on_manifold_score` are the highest; empty if it does not say.
    """

    confusion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    reference_class: Mapping[int, str] = field(default_factory=dict)
    score_parts: Mapping[str, int] = field(default_factory=dict)

    def kinds(self) -> list[dict[str, Any]]:
        """Rows of the confusion table: artefacts first, in each family the best recognised first."""
        rows = []
        for kind, found in self.confusion.items():
            counts = {name: found.get(name, 0) for name in ("artefact", "physical")}
            family = KINDS[kind].family if kind in KINDS else ""
            total = sum(counts.values())
            right = counts.get(family, 0) / total if family and total else None
            rows.append({"kind": kind.replace("_", " "), "family": family, "counts": counts, "right": right})
        return sorted(rows, key=lambda row: (row["family"] or "~", -(row["right"] or 0.0), row["kind"]))

    def neighbours(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Nearest normal objects of a row, nearest first: `name` (empty where it is simulated), `kind`, `distance`."""
        ids: Sequence[int] = row.get("neighbour_id") or ()
        return [
            {
                "name": str(number) if number >= MIN_TARGETID else "",
                "kind": self.reference_class.get(number, ""),
                "distance": distance,
            }
            for number, distance in zip(ids, row.get("neighbour_distance") or (), strict=True)
            if number >= 0
        ]
