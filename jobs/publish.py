"""Fragments -> a new version of the catalogue, with its report; nothing new, nothing published."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from engine import cluster
from engine.checkpoint import Checkpoint
from engine.commit import Manifest, RunAll, publish, publish_id, run_each, versions
from engine.errors import CommitError
from engine.flags import REASONS
from engine.pipeline import map_tasks
from jobs import infer, parts, report
from jobs.config import JobConfig, load
from jobs.job import JobResult, Options
from jobs.parts import Parts
from jobs.provenance import provenance

TOO_MUCH_REJECTED = 3
"""Exit code of a job that has published, but lost more to faults than the configuration allows."""

ROWS_MERGED_HERE = 1_000_000
"""Up to so many rows the driver merges by itself: starting workers costs 6 s, merging 400,000 rows 1.5 s."""


def run(options: Options) -> JobResult:
    """Publish what `infer` has computed for this release and checkpoint."""
    config = load(options, "release", "checkpoint", "output")
    ready, checkpoint = infer.assemble(config, options)
    if options.plan:
        return JobResult(parts.plan_summary(ready), parts.plan_lines(config, ready))
    if ready.pending:
        raise CommitError(
            f"{len(ready.pending)} of {len(ready.units)} units are not computed yet",
            ready.output.uri,
            hint="Run `infer` or `reprocess` with the same configuration.",
        )
    return publish_version(config, ready, checkpoint)


def publish_version(config: JobConfig, ready: Parts, checkpoint: Checkpoint) -> JobResult:
    """Merge, publish, report; the last two lines name the report and the catalogue."""
    before = versions(ready.output.uri, ready.storage)
    identity = publish_id([unit.id for unit in ready.units], ready.columns, config.catalog)
    unchanged = bool(before) and before[-1].publish_id == identity
    merge_here = unchanged or sum(record.rows for record in ready.records()) <= ROWS_MERGED_HERE
    with nullcontext() if merge_here else cluster.connect(config.cluster):
        manifest = _publish(config, ready, checkpoint, run_each if merge_here else _run_tasks)
    summary = _summary(manifest, unchanged)
    if config.report.enabled:
        summary["report"] = _report(config, ready, manifest, unchanged)
    summary["catalogue"] = ready.output.uri
    too_much = _fault_fraction(manifest) > config.max_rejected_fraction
    return JobResult(summary, _lines(summary, config), TOO_MUCH_REJECTED if too_much else 0)


def _run_tasks(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return list(map_tasks(function, items))


def _report(config: JobConfig, ready: Parts, manifest: Manifest, unchanged: bool) -> str:
    """Path of the report, which is drawn anew unless nothing is new."""
    path = report.path_of(ready.output, manifest)
    if unchanged and Path(path).exists():
        return path
    return report.write(ready.output, manifest.version, config.report)


def _publish(config: JobConfig, ready: Parts, checkpoint: Checkpoint, run_all: RunAll) -> Manifest:
    assert config.checkpoint is not None
    facts = provenance(config, checkpoints={config.checkpoint.uri: checkpoint.id})
    ids = [unit.id for unit in ready.units]
    return publish(ready.output.uri, ready.storage, ids, ready.columns, config.catalog, facts, run_all)


def _summary(manifest: Manifest, unchanged: bool) -> dict[str, Any]:
    return {
        "version": manifest.version,
        "new": not unchanged,
        "units": manifest.num_units,
        "rows_in": manifest.rows_in,
        "rows": manifest.rows,
        "rejected": dict(manifest.rejected),
        "fault_fraction": _fault_fraction(manifest),
    }


def _fault_fraction(manifest: Manifest) -> float:
    faults = sum(n for reason, n in manifest.rejected.items() if REASONS[reason].kind == "fault")
    seen = manifest.rows + sum(manifest.rejected.values())
    return faults / seen if seen else 0.0


def _lines(summary: dict[str, Any], config: JobConfig) -> list[str]:
    state = "published" if summary["new"] else "nothing new: still"
    lines = [f"{state} version {summary['version']}: {summary['rows']} rows from {summary['units']} units"]
    lines += [
        f"rejected {n}: {REASONS[r].description} ({REASONS[r].kind})" for r, n in summary["rejected"].items()
    ]
    if summary["fault_fraction"] > config.max_rejected_fraction:
        lines.append(
            f"{100 * summary['fault_fraction']:.3g}% were faults, more than max_rejected_fraction = "
            f"{config.max_rejected_fraction}: exit code {TOO_MUCH_REJECTED}"
        )
    return lines + [f"{name}: {summary[name]}" for name in ("report", "catalogue") if name in summary]
