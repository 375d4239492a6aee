"""Release -> staged Parquet for training: prepared rows, keys, and the hash that splits them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from engine.column import Column
from engine.commit import CatalogConfig, publish
from engine.errors import CommitError, ConfigError
from engine.partition import split_hash
from engine.rows import FLAGS
from engine.stage import Resources, Stage, UnitFunction, UnitTable, columns_by_name
from jobs import applied, parts
from jobs.config import JobConfig, load
from jobs.faults import judge
from jobs.job import JobResult, Options
from jobs.provenance import provenance

SPLIT = Column(
    "split_hash", "float64", "Uniform hash of the object in [0, 1): below the fraction, validation"
)


@dataclass(frozen=True)
class AddSplit:
    """Stage: the number that says, for ever, whether an object is for training or validation."""

    split_by: Column
    name: str = "split"
    provides: tuple[Column, ...] = (SPLIT,)
    resources: Resources = field(default_factory=Resources)

    @property
    def requires(self) -> tuple[Column, ...]:
        """The column that is hashed."""
        return (self.split_by,)

    def open(self) -> UnitFunction:
        """Return the function; there is nothing to load."""
        return self._apply

    def _apply(self, table: UnitTable) -> UnitTable:
        hashes = split_hash(table.rows[self.split_by.name].to_numpy())
        return table.with_rows(table.rows.append_column(SPLIT.name, pa.array(hashes)))


def run(options: Options) -> JobResult:
    """Stage what is new in the release, then list all of it in a new version."""
    return stage(load(options, "release", "staged"), options)


def stage(config: JobConfig, options: Options) -> JobResult:
    """Run `source -> prepare -> split -> fragments` and publish the list of files."""
    assert config.staged is not None
    assert config.release is not None
    source = config.release.open()
    (split_by,) = columns_by_name(source.columns, source.split_by)
    prepare = source.prepare_class.model_validate(config.prepare).stage
    upstream = applied.open_upstream(config)
    stages: tuple[Stage, ...] = (prepare, *(one.stage(config.infer) for one in upstream), AddSplit(split_by))
    made = {column.name: column for stage in stages for column in stage.provides}
    _check_apart(source.staged, [column.name for column in prepare.provides], made)
    columns = (
        *columns_by_name(source.columns, *source.staged),
        *(column for name, column in made.items() if name not in source.staged),
    )
    salt: dict[str, Any] = {"prepare": config.prepare, "job": "ingest"}
    if upstream:
        salt |= {"checkpoints": [one.checkpoint.id for one in upstream], "precision": config.infer.precision}
    ready = parts.assemble(config, stages, columns, config.staged, salt, options.limit)
    if options.plan:
        return parts.plan(ready)
    parts.run(config, [ready], "ingest")
    ready = ready.settled()
    manifest = publish(
        config.staged.uri,
        ready.storage,
        [unit.id for unit in ready.units],
        columns,
        CatalogConfig(name="staged", kind="flat", key=()),
        provenance(config),
        units=ready.units,
    )
    if not manifest.rows:
        raise CommitError("nothing is left to train on", config.staged.uri, hint="See its `rejected`.")
    verdict = judge(ready.units, [manifest], config.max_rejected_fraction)
    summary = {
        "staged": config.staged.uri,
        "version": manifest.version,
        "rows": manifest.rows,
        "rejected": manifest.rejected,
        "given_up": list(ready.given_up),
        "fault_fraction": verdict.fraction,
    }
    line = f"staged: {config.staged.uri} ({manifest.rows} objects)"
    return JobResult(summary, [*ready.told, *verdict.lines, line], verdict.exit_code)


def _check_apart(staged: Iterable[str], prepared: Iterable[str], made: Iterable[str]) -> None:
    """Make sure that no number of the catalogue has the name of a column that a later stage makes."""
    doubled = (set(staged) & set(made)) - {*prepared, FLAGS.name}
    if doubled:
        raise ConfigError(
            "quantities have the names of columns that are made here", got=", ".join(sorted(doubled)),
            hint="Give them other names in release.settings.",
        )  # fmt: skip
