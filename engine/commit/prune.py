"""Remove what nobody needs any more: old versions, what killed workers left, fragments of units that no version has.

What may still be needed stays. A version goes when the one that pushed it out of the newest `keep_versions` is old
enough that nobody reads it any more. Files of no version or record go when they are old enough that no job is still
to record them. Fragments of units that only old versions had go in two steps, because a job that is running may have
counted on their records: the record is retired first, and its fragment follows when that was long enough ago.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from engine.commit import parquet
from engine.commit.manifest import (
    Manifest,
    Version,
    manifest_of,
    read_version,
    version_numbers,
    version_uri,
)
from engine.ledger import Ledger, LedgerRecord
from engine.runs import RunFolder, run_names
from engine.storage import FileInfo, Storage, canonical

RETIRED = "retired"
"""Folder of ledger records that were taken out of the ledger, until their fragments are gone."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed (or would be): URIs and their sizes; units whose fragments go with a later pruning."""

    uris: tuple[str, ...]
    num_bytes: int
    retired: int = 0


def prune(root: str, storage: Storage, keep_versions: int, min_age_s: float, dry_run: bool = False) -> Pruned:
    """Remove orphaned fragments, unfinished files and publications, old versions and old runs below a catalogue root.

    It may be killed at any moment and run again, and run beside jobs and readers. Ages are by the clock of the storage, so
    that a machine whose clock is wrong removes nothing too early.

    Parameters
    ----------
    root, storage
        The catalogue.
    keep_versions
        How many of the newest versions stay, at least 1.
    min_age_s
        Grace [s]: longer than any job runs (its files have no record until they are whole) and any reader
        reads one version.
    dry_run
        Only tell what would be removed.

    Raises
    ------
    ValueError
        If no version would stay.
    """
    if keep_versions < 1:
        raise ValueError(f"keep_versions must be at least 1 (got {keep_versions})")
    now_s = storage.reader_clock_s(root) if dry_run else storage.clock_s(root)
    sweep = _Sweep(root, storage, now_s, now_s - min_age_s)
    # Files are listed before the records that name them: one recorded meanwhile is not an orphan.
    fragments = sweep.listed("fragments")
    data = sweep.listed("data")
    expired, kept = _split(sweep, keep_versions)
    manifests = [manifest_of(root, storage, version) for version in kept]
    retiring = _to_retire(sweep, expired, manifests)
    doomed = [_record_of(sweep, version) for version in expired]
    doomed += _unnamed_data(sweep, data, manifests)
    doomed += _unnamed_fragments(sweep, fragments, manifests)
    doomed += _old_runs(sweep)
    doomed += (info for info in storage.unfinished(root) if sweep.is_old(info))
    if not dry_run:
        _retire(sweep, retiring)
        for info in doomed:  # version records first: a version never names what is gone
            storage.delete(info.uri)
    return Pruned(tuple(info.uri for info in doomed), sum(info.size for info in doomed), len(retiring))


@dataclass
class _Sweep:
    """A catalogue, the time, and that before which things are old: by the clock of the storage [s, Unix time]."""

    root: str
    storage: Storage
    now_s: float
    old_s: float
    base: str = field(init=False)

    def __post_init__(self) -> None:
        self.base = canonical(self.root).rstrip("/") + "/"

    def listed(self, folder: str) -> list[FileInfo]:
        return list(self.storage.list(self.storage.join(self.root, folder)))

    def is_old(self, info: FileInfo) -> bool:
        return info.modified_s <= self.old_s

    def path(self, info: FileInfo) -> str:
        """Path relative to the root."""
        return info.uri.removeprefix(self.base)


def _split(sweep: _Sweep, keep_versions: int) -> tuple[list[Version], list[Version]]:
    """Versions that go and versions that stay, oldest first.

    A version is in the way of nobody while it is current; who opened it then may read on for the grace from
    the moment when the next one came.
    """
    numbers = version_numbers(sweep.root, sweep.storage)
    records = [read_version(sweep.root, sweep.storage, number) for number in numbers]
    successors = dict(pairwise(records))
    expired = [v for v in records[:-keep_versions] if sweep.is_old(_record_of(sweep, successors[v]))]
    return expired, [version for version in records if version not in expired]


def _record_of(sweep: _Sweep, version: Version) -> FileInfo:
    return sweep.storage.info(version_uri(sweep.root, sweep.storage, version.version))


def _to_retire(sweep: _Sweep, expired: list[Version], kept: list[Manifest]) -> list[str]:
    """Ids of the units that only versions that go have: nothing while a job runs that may count on them.

    Units that no version ever had are results of jobs that have not published yet: they stay.
    """
    if not expired or _is_busy(sweep):
        return []
    manifests = [manifest_of(sweep.root, sweep.storage, version) for version in expired]
    return sorted(_units(sweep, manifests) - _units(sweep, kept))


def _units(sweep: _Sweep, manifests: Iterable[Manifest]) -> set[str]:
    found: set[str] = set()
    for manifest in manifests:
        (path,) = manifest.paths("units")
        uri = sweep.storage.join(sweep.root, path)
        found |= set(parquet.read(sweep.storage, uri, ["unit_id"])["unit_id"].to_pylist())
    return found


def _is_busy(sweep: _Sweep) -> bool:
    return any(_is_running(sweep, name) for name in run_names(sweep.root, sweep.storage))


def _is_running(sweep: _Sweep, run: str) -> bool:
    state = RunFolder(sweep.root, sweep.storage, run).read()
    return bool(state and not state.end and not state.is_lost(sweep.now_s))


def _retire(sweep: _Sweep, unit_ids: Iterable[str]) -> None:
    """Move records out of the ledger: written in the new place first, so that none is lost in between."""
    ledger = Ledger(sweep.root, sweep.storage)
    for record in ledger.done(list(unit_ids)).values():
        name = f"{record.unit_id}-{record.attempt}.json"
        sweep.storage.put(sweep.storage.join(sweep.root, RETIRED, name), record.to_json().encode())
        ledger.forget(record.unit_id)


def _unnamed_data(sweep: _Sweep, files: list[FileInfo], manifests: list[Manifest]) -> Iterator[FileInfo]:
    """Old files of publications that no kept version is of."""
    folders = {manifest.path for manifest in manifests}
    named = {file.path for manifest in manifests for file in manifest.files}
    for info in files:
        path = sweep.path(info)
        if path not in named and "/".join(path.split("/")[:2]) not in folders and sweep.is_old(info):
            yield info


def _unnamed_fragments(sweep: _Sweep, files: list[FileInfo], manifests: list[Manifest]) -> Iterator[FileInfo]:
    """Old fragments of attempts that do not count, and those that were retired long enough ago, with the records."""
    retired = sweep.listed(RETIRED)
    fresh = [info for info in retired if not sweep.is_old(info)]
    named = {file.path for manifest in manifests for file in manifest.files}
    named |= {path for info in fresh for path in _paths(_record(sweep, info))}
    ledger = Ledger(sweep.root, sweep.storage)
    recorded = ledger.ids()
    attempts: dict[str, dict[str, list[FileInfo]]] = defaultdict(lambda: defaultdict(list))
    for info in files:
        unit_id, _, attempt = info.uri.rpartition("/")[2].partition("-")
        attempts[unit_id][attempt.removesuffix(".parquet").removesuffix("-rejected")].append(info)
    # A record is read only where several attempts left fragments: one attempt alone is the one that counts.
    contested = [unit_id for unit_id, found in attempts.items() if unit_id in recorded and len(found) > 1]
    named |= {path for record in ledger.done(contested).values() for path in _paths(record)}
    for unit_id, found in attempts.items():
        if unit_id in recorded and len(found) == 1:
            continue
        for info in (info for infos in found.values() for info in infos):
            if sweep.path(info) not in named and sweep.is_old(info):
                yield info
    yield from (info for info in retired if sweep.is_old(info))


def _record(sweep: _Sweep, info: FileInfo) -> LedgerRecord:
    return LedgerRecord.from_json(sweep.storage.read(info.uri))


def _paths(record: LedgerRecord) -> tuple[str, str]:
    return record.fragment, record.rejected_fragment


def _old_runs(sweep: _Sweep) -> Iterator[FileInfo]:
    """Objects of runs of which all are old, but for the last run and those that go on, however long ago they began."""
    last = run_names(sweep.root, sweep.storage)[-1:]
    runs: dict[str, list[FileInfo]] = defaultdict(list)
    for info in sweep.listed("runs"):
        runs[sweep.path(info).split("/")[1]].append(info)
    for name, files in runs.items():
        if name not in last and all(map(sweep.is_old, files)) and not _is_running(sweep, name):
            yield from files
