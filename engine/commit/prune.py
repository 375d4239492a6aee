"""Remove what no kept version and no ledger record names: orphans of killed workers, old versions."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from engine.commit.manifest import Version, manifest_of, read_version, version_numbers, version_uri
from engine.ledger import Ledger
from engine.storage import FileInfo, Storage, canonical


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed (or would be): URIs and their sizes."""

    uris: tuple[str, ...]
    num_bytes: int


def prune(root: str, storage: Storage, keep_versions: int, min_age_s: float, dry_run: bool = False) -> Pruned:
    """Remove orphaned fragments, unfinished publications and old versions below a catalogue root.

    Parameters
    ----------
    root, storage
        The catalogue.
    keep_versions
        How many of the newest versions stay, at least 1.
    min_age_s
        Nothing younger is touched [s]; must be longer than any job runs, for its files have no record
        until they are whole.
    dry_run
        Only tell what would be removed.

    Raises
    ------
    ValueError
        If no version would stay.
    """
    if keep_versions < 1:
        raise ValueError(f"keep_versions must be at least 1 (got {keep_versions})")
    # Files are listed before the records that name them: one recorded meanwhile is not an orphan.
    files = list(storage.list(storage.join(root, "fragments"))) + list(
        storage.list(storage.join(root, "data"))
    )
    numbers = version_numbers(root, storage)
    old = [read_version(root, storage, n) for n in numbers[:-keep_versions]]
    expired = [version for version in old if _age_s(datetime.fromisoformat(version.created)) >= min_age_s]
    kept = [read_version(root, storage, n) for n in numbers if n not in {v.version for v in expired}]
    orphans = list(_orphans(root, storage, files, kept, min_age_s))
    pointers = [storage.info(version_uri(root, storage, version.version)) for version in expired]
    doomed = pointers + orphans  # records first: a version never names what is gone
    if not dry_run:
        for info in doomed:
            storage.delete(info.uri)
    return Pruned(tuple(info.uri for info in doomed), sum(info.size for info in doomed))


def _orphans(
    root: str, storage: Storage, files: list[FileInfo], kept: list[Version], min_age_s: float
) -> Iterator[FileInfo]:
    named, folders = _named(root, storage, kept)
    base = canonical(root).rstrip("/") + "/"
    for info in files:
        path = info.uri.removeprefix(base)
        is_kept = path in named or "/".join(path.split("/")[:2]) in folders
        if not is_kept and _age_s(_modified(storage, info.uri)) >= min_age_s:
            yield info


def _named(root: str, storage: Storage, kept: list[Version]) -> tuple[set[str], set[str]]:
    """Files that records and kept versions name, and the folders of these versions."""
    records = Ledger(root, storage).done().values()
    named = {path for record in records for path in (record.fragment, record.rejected_fragment)}
    manifests = [manifest_of(root, storage, version) for version in kept]
    named |= {file.path for manifest in manifests for file in manifest.files}
    return named, {manifest.path for manifest in manifests}


def _modified(storage: Storage, uri: str) -> datetime:
    return storage.filesystem(uri).modified(uri)


def _age_s(time: datetime) -> float:
    return (datetime.now(UTC) - time).total_seconds()
