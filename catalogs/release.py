"""One version of a published catalogue, from the numbered record through the manifest to its files."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from catalogs import CATALOGS
from catalogs.spec import CatalogSpec
from engine.column import Column
from engine.commit.manifest import DataFile, Manifest, Version, manifest_of, read_manifest, versions
from engine.errors import CommitError
from engine.storage import Storage, canonical


@dataclass(frozen=True)
class Release:
    """A version that has been looked up.

    Parameters
    ----------
    root
        URI of the catalogue.
    manifest
        What it holds and what made it.
    columns
        Declared columns of its rows.
    spec
        Which catalogue it is, told by its columns; None if it is none of `CATALOGS` (staged spectra).
    """

    root: str
    manifest: Manifest
    columns: tuple[Column, ...]
    spec: CatalogSpec | None

    @property
    def version(self) -> int:
        """Number of the version."""
        return self.manifest.version

    def files(self, role: str) -> list[DataFile]:
        """Files of a role, in the order of the manifest."""
        return [file for file in self.manifest.files if file.role == role]

    def uri(self, file: DataFile) -> str:
        """Where a file lies."""
        return Storage.join(self.root, file.path)

    def uris(self, role: str) -> list[str]:
        """Where all files of a role lie."""
        return [self.uri(file) for file in self.files(role)]


@dataclass(frozen=True)
class VersionFacts:
    """A row of the view `versions`; `created_utc` has no time zone because all are UTC."""

    version: int
    created_utc: datetime
    num_rows: int
    num_rejected: int
    checkpoint_ids: tuple[str, ...]
    publish_id: str


def load_release(root: str, storage: Storage, version: int | None = None) -> Release:
    """Look up a version, the newest by default.

    Raises
    ------
    CommitError
        If nothing is published there, the version does not exist, or its manifest is damaged.
    """
    root = canonical(root)
    manifest = read_manifest(root, storage, version)
    try:
        columns = tuple(Column(**fields) for fields in manifest.columns)
    except TypeError as error:
        raise CommitError(f"manifest declares columns that cannot be read ({error})", root) from error
    return Release(root, manifest, columns, _spec_of({column.name for column in columns}))


def version_facts(root: str, storage: Storage) -> list[VersionFacts]:
    """Describe all versions, oldest first."""
    root = canonical(root)
    return [_facts(record, manifest_of(root, storage, record)) for record in versions(root, storage)]


def checkpoint_ids(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """Ids of the checkpoints that a version was made with; the job records them as name -> id."""
    return tuple(str(value) for value in dict(provenance.get("checkpoints", {})).values())


def _facts(record: Version, manifest: Manifest) -> VersionFacts:
    created = datetime.fromisoformat(record.created)
    created = created.astimezone(UTC).replace(tzinfo=None) if created.tzinfo else created
    ids = checkpoint_ids(manifest.provenance)
    return VersionFacts(record.version, created, record.rows, record.rejected, ids, record.publish_id)


def _spec_of(names: set[str]) -> CatalogSpec | None:
    found = (spec for spec in CATALOGS.values() if names >= {*spec.key, spec.score, "flags"})
    return next(found, None)
