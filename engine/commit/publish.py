"""Publish: what the ledger holds becomes an immutable, numbered version of a catalogue.

Files first, then the manifest that lists them, last the version record, created at most once: a killed
or failed publication leaves files that nobody reads. Publishing the same content again gives back the
version that there is.
"""

import json
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeGuard

import pyarrow as pa

from engine.column import Column
from engine.commit import hats, parquet
from engine.commit.manifest import (
    DataFile,
    Manifest,
    Version,
    current_version,
    manifest_of,
    metrics_lines,
    version_uri,
)
from engine.commit.merge import (
    CatalogConfig,
    RunAll,
    Target,
    Written,
    plan_partitions,
    plan_rejected,
    put_file,
    run_each,
    settle_duplicates,
    write_partition,
    write_rejected,
)
from engine.errors import CommitError, SchemaError, SupersededError
from engine.ledger import Ledger, LedgerRecord
from engine.partition import HEALPIX
from engine.storage import Storage
from engine.units import Unit, content_hash

UNITS_SCHEMA = pa.schema(
    [
        pa.field("unit_id", pa.string(), False),
        pa.field("unit_key", pa.string(), False),
        pa.field("rows_in", pa.int64(), False),
        pa.field("rows", pa.int64(), False),
        pa.field("rejected", pa.int64(), False),
        pa.field("unit", pa.string(), False),
    ]
)


def publish_id(unit_ids: Iterable[str], columns: Sequence[Column], config: CatalogConfig) -> str:
    """Hash of all that decides a version's rows: equal content, equal id."""
    return content_hash([sorted(unit_ids), [asdict(c) for c in columns], config.model_dump(mode="json")])


def publish(
    root: str,
    storage: Storage,
    unit_ids: Collection[str],
    columns: Sequence[Column],
    config: CatalogConfig,
    provenance: Mapping[str, Any] | None = None,
    run_all: RunAll = run_each,
    records: Collection[LedgerRecord] | None = None,
    base: int | None = None,
    damaged: int = 0,
    units: Collection[Unit] = (),
) -> Manifest:
    """Publish the rows of some units as the next version, unless the current one holds just these.

    Parameters
    ----------
    root, storage
        The catalogue.
    unit_ids
        Units that the version consists of; each must have a ledger record.
    columns
        Columns of the fragments, in the order to publish.
    config
        Layout; `kind="flat"` publishes the fragments as they are.
    provenance
        JSON-able facts for the manifest: configuration, git commit, packages, checkpoints.
    run_all
        Runs independent calls, in order of the results.
    records
        The units' ledger records, where they are known already: each is a request to storage.
    base
        Number of the version that must still be current, 0 if there was none; None: whichever is.
    damaged
        Number of a version whose files are damaged: if it holds this content, it gets a successor that does too.
    units
        The units themselves, with the ids of their records, where they are known: records need not hold them then.

    Returns
    -------
    Manifest
        Of the version that now holds this content: new, or the one that there was.

    Raises
    ------
    CommitError
        If a unit has no record, a fragment is damaged, or rows are lost.
    SupersededError
        If another version than `base` is current.
    SchemaError
        If the settings name columns that there are not.
    """
    check_settings(columns, config)
    identity = publish_id(unit_ids, columns, config)
    current = current_version(root, storage)
    if _holds(current, identity, damaged):
        return manifest_of(root, storage, current)
    _check_base(current, base, root)
    found = Ledger(root, storage).done(unit_ids, not units).values() if records is None else records
    records = _complete(found, unit_ids, root)
    path = f"data/{identity}-{secrets.token_hex(6)}"
    target = Target(root, path, storage, tuple(columns), config)
    written = _write_rows(records, target, run_all)
    manifest = _manifest(records, target, identity, written, provenance or {})
    _check_rows(manifest, root)
    manifest = replace(
        manifest, files=(*manifest.files, *_write_metadata(records, units, target, written, manifest))
    )
    put_file(target, "manifest.json", manifest.to_json().encode(), 0, "metadata")
    return _claim_version(root, storage, manifest, base, damaged)


def check_settings(columns: Sequence[Column], config: CatalogConfig) -> None:
    """Check that all columns that the settings name are there, before anything is computed.

    Raises
    ------
    SchemaError
        Naming the columns.
    """
    names = {column.name for column in columns}
    wanted = {*config.default_columns}
    if config.kind == "hats":
        sort = {name.removeprefix("-") for name in config.prefer}
        wanted |= {HEALPIX.name, "ra", "dec", *config.key, *(sort if config.key else ())}
    if missing := sorted(wanted - names):
        raise SchemaError(
            "catalogue settings name columns that there are not",
            f"catalogue {config.name}",
            got=", ".join(missing),
            expected=f"of {', '.join(sorted(names))}",
        )


def _complete(records: Iterable[LedgerRecord], unit_ids: Collection[str], root: str) -> list[LedgerRecord]:
    """Return a record for each unit, sorted by unit; `CommitError` if one is missing."""
    done = {record.unit_id: record for record in records}
    if missing := sorted(set(unit_ids) - done.keys()):
        raise CommitError(
            f"{len(missing)} of {len(set(unit_ids))} units have no record",
            root,
            got=f"none for {missing[0]}",
            hint="Run the job again to compute them.",
        )
    return [done[unit_id] for unit_id in sorted(set(unit_ids))]


@dataclass(frozen=True)
class _Rows:
    """Partitions written, and all files of data and rejected rows."""

    partitions: tuple[Written, ...]
    data: tuple[DataFile, ...]
    rejected: tuple[DataFile, ...]
    duplicates: int


def _write_rows(records: list[LedgerRecord], target: Target, run_all: RunAll) -> _Rows:
    merged = [file for part in run_all(write_rejected, plan_rejected(records, target)) for file in part.files]
    if target.config.kind == "flat":
        whole = [record for record in records if record.fragment]
        fragments = (DataFile(r.fragment, r.rows, r.num_bytes, r.sha256) for r in whole)
        return _Rows((), tuple(fragments), tuple(merged), 0)
    tasks = plan_partitions(records, target)
    partitions = settle_duplicates(tasks, run_all(write_partition, tasks), run_all)
    files = [file for part in partitions for file in part.files]
    data = tuple(file for file in files if file.role == "data")
    lost = tuple(file for file in files if file.role == "rejected")
    return _Rows(tuple(partitions), data, (*merged, *lost), sum(file.rows for file in lost))


def _manifest(
    records: list[LedgerRecord],
    target: Target,
    identity: str,
    written: _Rows,
    provenance: Mapping[str, Any],
) -> Manifest:
    rejected: Counter[str] = Counter()
    stats: Counter[str] = Counter()
    for record in records:
        rejected.update(record.rejected)
        stats.update(record.stats)
    if written.duplicates:
        rejected["duplicate_key"] += written.duplicates
    return Manifest(
        publish_id=identity,
        name=target.config.name,
        kind=target.config.kind,
        path=target.path,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        columns=tuple(asdict(column) for column in target.columns),
        num_units=len(records),
        files=(*written.data, *written.rejected),
        rows_in=sum(record.rows_in for record in records),
        rows=sum(file.rows for file in written.data),
        rejected=dict(sorted(rejected.items())),
        rejected_files=sum(record.rejected_files for record in records),
        stats=dict(sorted(stats.items())),
        provenance=dict(provenance),
    )


def _check_rows(manifest: Manifest, root: str) -> None:
    rejected = sum(manifest.rejected.values())
    in_files = sum(file.rows for file in manifest.files if file.role == "rejected")
    if rejected != in_files or manifest.rows_in != manifest.rows + rejected - manifest.rejected_files:
        raise CommitError(
            "rows were lost or doubled while publishing",
            root,
            got=f"{manifest.rows} rows, {in_files} rejected",
            expected=f"{manifest.rows_in} in all, {rejected} rejected of which {manifest.rejected_files} files",
        )


def _write_metadata(
    records: list[LedgerRecord], units: Collection[Unit], target: Target, written: _Rows, manifest: Manifest
) -> list[DataFile]:
    data = units_file(records, {unit.id: unit for unit in units})
    files = [put_file(target, "units.parquet", data, len(records), "units")]
    schema = hats.file_schema(target.columns, target.config.name)
    contents = {
        "dataset/_common_metadata": hats.dataset_metadata(schema, {}),
        "metrics.jsonl": metrics_lines(manifest),
    }
    if target.config.kind == "hats":
        contents |= _hats_files(target, written, manifest, schema)
    return files + [put_file(target, name, data, 0, "metadata") for name, data in contents.items()]


def units_file(records: Sequence[LedgerRecord], units: Mapping[str, Unit]) -> bytes:
    """Return the table of units as Parquet, a row group at a time: there may be a million.

    Parameters
    ----------
    records
        One for each unit, in the order of the file.
    units
        Units by id, for records that do not hold them.
    """
    size = parquet.ROW_GROUP_ROWS
    chunks = (records[start : start + size] for start in range(0, len(records), size))
    return parquet.chunks_to_bytes((_units_table(chunk, units) for chunk in chunks), UNITS_SCHEMA)


def _units_table(records: Sequence[LedgerRecord], units: Mapping[str, Unit]) -> pa.Table:
    columns = {
        "unit_id": [record.unit_id for record in records],
        "unit_key": [record.unit_key for record in records],
        "rows_in": [record.rows_in for record in records],
        "rows": [record.rows for record in records],
        "rejected": [record.rejected_rows for record in records],
        "unit": [record.unit or units[record.unit_id].to_json() for record in records],
    }
    return pa.table(columns, schema=UNITS_SCHEMA)


def _hats_files(target: Target, written: _Rows, manifest: Manifest, schema: pa.Schema) -> dict[str, bytes]:
    footers = {(part.order, part.pixel): part.footer for part in written.partitions if part.footer}
    counts: Counter[int] = Counter()
    for part in written.partitions:
        counts.update({int(pixel): count for pixel, count in part.pixels.items()})
    properties = _properties(target.config, manifest)
    return {
        "dataset/_metadata": hats.dataset_metadata(schema, footers),
        "partition_info.csv": hats.partition_info(footers),
        "skymap.fits": hats.skymap(counts),
        "hats.properties": properties,
        "properties": properties,
    }


def _properties(config: CatalogConfig, manifest: Manifest) -> bytes:
    return hats.properties(
        config.name,
        manifest.rows,
        sum(file.num_bytes for file in manifest.files if file.role == "data"),
        config.max_rows_per_partition,
        config.default_columns,
        {
            "hats_builder": _builder(manifest),
            "hats_creation_date": manifest.created,
            "trawl_publish_id": manifest.publish_id,
            "trawl_git_commit": str(manifest.provenance.get("git_commit", "")),
        },
    )


def _builder(manifest: Manifest) -> str:
    version = manifest.provenance.get("packages", {}).get("trawl", "")
    return f"trawl v{version}" if version else "trawl"


def _check_base(current: Version | None, base: int | None, root: str) -> None:
    """Refuse to follow a version that came after the release was looked at: it may know of more files."""
    number = current.version if current else 0
    if base is not None and number != base:
        raise SupersededError(
            "another job published a version meanwhile, from another state of the release",
            root,
            got=f"version {number}",
            expected=f"version {base}" if base else "none",
            hint="Nothing is lost: run the job again, it goes on from there.",
        )


def _holds(version: Version | None, identity: str, damaged: int) -> TypeGuard[Version]:
    """Tell whether a version is there, holds this content, and is not the damaged one."""
    return version is not None and version.publish_id == identity and version.version != damaged


def _claim_version(
    root: str, storage: Storage, manifest: Manifest, base: int | None, damaged: int
) -> Manifest:
    """Create the next version record; who comes second to equal content takes that version."""
    while True:
        current = current_version(root, storage)
        if _holds(current, manifest.publish_id, damaged):
            return manifest_of(root, storage, current)
        _check_base(current, base, root)
        previous = current.version if current else 0
        record = Version(
            version=previous + 1,
            previous=previous,
            publish_id=manifest.publish_id,
            manifest=f"{manifest.path}/manifest.json",
            created=manifest.created,
            rows=manifest.rows,
            rejected=sum(manifest.rejected.values()),
        )
        uri = version_uri(root, storage, record.version)
        if storage.put_if_absent(uri, json.dumps(asdict(record), sort_keys=True).encode()):
            return replace(manifest, version=record.version, previous=previous)
