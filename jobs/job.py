"""What a job is given and what it gives back."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Options:
    """The command line of a job, whichever of these it takes."""

    target: str
    overrides: tuple[str, ...] = ()
    plan: bool = False
    repair: bool = False
    limit: int | None = None
    version: int | None = None
    keep: int | None = None
    sql: str = ""
    out: str = ""
    labels: str = ""
    who: str = ""
    why: str = ""
    json: bool = False
    run: str = ""
    other: str = ""
    radius_arcsec: float | None = None
    neighbors: int | None = None
    columns: str = ""
    allow: tuple[str, ...] = ()

    @staticmethod
    def from_namespace(arguments: argparse.Namespace) -> "Options":
        """Return the options of a parsed command line."""
        given = vars(arguments)
        names = (
            "plan", "repair", "limit", "version", "keep", "sql", "out", "labels", "who", "why", "json",
            "other", "radius_arcsec", "neighbors", "columns", "run",
        )  # fmt: skip
        fields = {name: given[name] for name in names if given.get(name) is not None}
        if given.get("allow"):
            fields["allow"] = tuple(given["allow"])
        target = given.get("config") or given["uri"]
        return Options(target=target, overrides=tuple(given["overrides"]), **fields)


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended.

    `summary` is what `--json` prints, unless there are `json_lines`, which are read as they are printed;
    `lines` are for people.
    """

    summary: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    exit_code: int = 0
    json_lines: Iterable[str] | None = None

    @staticmethod
    def joined(results: "Sequence[JobResult]") -> "JobResult":
        """Return the outcome of several models as one; that of a single one as it is."""
        if len(results) == 1:
            return results[0]
        lines = [line for result in results for line in result.lines]
        summary = {"models": [result.summary for result in results]}
        return JobResult(summary, lines, max(result.exit_code for result in results))
