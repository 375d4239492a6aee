"""Release -> staged Parquet for training: prepared spectra, keys, and the hash that splits them."""

from dataclasses import dataclass, field

import pyarrow as pa

from engine.column import Column
from engine.commit import CatalogConfig, publish
from engine.errors import CommitError
from engine.partition import split_hash
from engine.sources.base import SPECTRUM_COLUMNS
from engine.stage import Resources, Stage, UnitFunction, UnitTable, columns_by_name
from jobs import parts
from jobs.config import JobConfig, load
from jobs.faults import judge
from jobs.job import JobResult, Options
from jobs.provenance import provenance

SPLIT = Column("split_hash", "float64", "Uniform hash of targetid in [0, 1): below the fraction, validation")

KEPT = ("targetid", "survey", "program", "z", "spectype", "source_uri", "source_row", "snr", "flags")
"""Columns of the source that training or its diagnosis needs."""


@dataclass(frozen=True)
class AddSplit:
    """Stage: the number that says, for ever, whether a target is for training or validation."""

    name: str = "split"
    requires: tuple[Column, ...] = columns_by_name(SPECTRUM_COLUMNS, "targetid")
    provides: tuple[Column, ...] = (SPLIT,)
    resources: Resources = field(default_factory=Resources)

    def open(self) -> UnitFunction:
        """Return the function; there is nothing to load."""
        return _add_split


def _add_split(table: UnitTable) -> UnitTable:
    hashes = split_hash(table.rows["targetid"].to_numpy())
    return table.with_rows(table.rows.append_column(SPLIT.name, pa.array(hashes)))


def run(options: Options) -> JobResult:
    """Stage what is new in the release, then list all of it in a new version."""
    return stage(load(options, "release", "staged"), options)


def stage(config: JobConfig, options: Options) -> JobResult:
    """Run `source -> prepare -> split -> fragments` and publish the list of files."""
    assert config.staged is not None
    assert config.release is not None
    prepare = config.release.kind.prepare_class.model_validate(config.prepare).stage
    stages: tuple[Stage, ...] = (prepare, AddSplit())
    columns = (
        *columns_by_name(SPECTRUM_COLUMNS, *KEPT),
        *(column for column in prepare.provides if column.name not in KEPT),
        SPLIT,
    )
    salt = {"prepare": config.prepare, "job": "ingest"}
    ready = parts.assemble(config, stages, columns, config.staged, salt, options.limit)
    if options.plan:
        return JobResult(parts.plan_summary(ready), parts.plan_lines(config, ready))
    parts.run(config, ready, "ingest")
    manifest = publish(
        config.staged.uri,
        ready.storage,
        [unit.id for unit in ready.units],
        columns,
        CatalogConfig(name="staged", kind="flat", key=()),
        provenance(config),
    )
    if not manifest.rows:
        raise CommitError("no spectrum is left to train on", config.staged.uri, hint="See its `rejected`.")
    verdict = judge(ready.units, [manifest], config.max_rejected_fraction)
    summary = {
        "staged": config.staged.uri,
        "version": manifest.version,
        "rows": manifest.rows,
        "rejected": manifest.rejected,
        "fault_fraction": verdict.fraction,
    }
    line = f"staged: {config.staged.uri} ({manifest.rows} spectra)"
    return JobResult(summary, [*verdict.lines, line], verdict.exit_code)
