"""Manifests and numbered versions: what a reader needs to know of a published catalogue.

`versions/000042.json` is created at most once and names a manifest; the highest number is current. A
manifest lists every file; readers take files from it and never list folders.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from engine.errors import CommitError
from engine.locations import NotFoundError
from engine.storage import Storage

Role = Literal["data", "rejected", "units", "metadata"]


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of a version; `path` is relative to the catalogue root."""

    path: str
    rows: int
    num_bytes: int
    sha256: str
    role: Role = "data"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one publication holds and what made it.

    Parameters
    ----------
    publish_id
        Hash of units, columns and catalogue settings: equal content has an equal id.
    name, kind
        Catalogue name; "hats" (sky partitions) or "flat" (fragments as they are).
    path
        Folder of the version's own files, relative to the catalogue root.
    created
        UTC time, ISO 8601.
    columns
        Declared columns, as dicts of `engine.column.Column`.
    num_units
        Units that it was made from; `role="units"` is their table.
    files
        All files, those of the data first.
    rows_in, rows
        Objects found in the release, rows of the catalogue.
    rejected
        Rows of `rejected` by reason: objects and whole files.
    rejected_files
        How many of these are files: `rows_in == rows + sum(rejected) - rejected_files`.
    stats
        Sums of the units' numbers.
    provenance
        Configuration, git commit, package versions, checkpoints: whatever the job gave.
    version, previous
        Filled in by the version that names the manifest; 0 before.
    """

    publish_id: str
    name: str
    kind: str
    path: str
    created: str
    columns: tuple[dict[str, Any], ...]
    num_units: int
    files: tuple[DataFile, ...]
    rows_in: int
    rows: int
    rejected: dict[str, int]
    rejected_files: int
    stats: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    version: int = 0
    previous: int = 0

    def paths(self, role: Role) -> list[str]:
        """Files of a role, relative to the catalogue root."""
        return [file.path for file in self.files if file.role == role]

    def to_json(self) -> str:
        """Return the manifest as JSON; `from_json` is the inverse."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @staticmethod
    def from_json(text: str | bytes) -> "Manifest":
        """Return the manifest that `to_json` wrote."""
        fields = json.loads(text)
        files = tuple(DataFile(**file) for file in fields.pop("files"))
        return Manifest(files=files, columns=tuple(fields.pop("columns")), **fields)


@dataclass(frozen=True, slots=True)
class Version:
    """One number of a catalogue; `manifest` is relative to the root."""

    version: int
    previous: int
    publish_id: str
    manifest: str
    created: str
    rows: int
    rejected: int


def version_uri(root: str, storage: Storage, number: int) -> str:
    """Where a version's record lies."""
    return storage.join(root, "versions", f"{number:06d}.json")


def version_numbers(root: str, storage: Storage) -> list[int]:
    """Numbers of all versions, ascending: one listing."""
    names = (info.uri.rpartition("/")[2] for info in storage.list(storage.join(root, "versions"), ".json"))
    stems = (name.removesuffix(".json") for name in names)
    return sorted(int(stem) for stem in stems if stem.isdigit())


def versions(root: str, storage: Storage) -> list[Version]:
    """All versions, oldest first, without those that are pruned meanwhile; empty if nothing was published."""
    found = []
    for number in version_numbers(root, storage):
        with suppress(NotFoundError):
            found.append(read_version(root, storage, number))
    return found


def current_version(root: str, storage: Storage) -> Version | None:
    """Newest version, None if nothing was published: one listing, one record."""
    numbers = version_numbers(root, storage)
    return read_version(root, storage, numbers[-1]) if numbers else None


def read_version(root: str, storage: Storage, number: int) -> Version:
    """Read the record of one version.

    Raises
    ------
    CommitError
        If it is not a version record.
    """
    uri = version_uri(root, storage, number)
    try:
        return Version(**json.loads(storage.read(uri)))
    except (ValueError, TypeError) as error:
        raise CommitError(f"not a version record ({error})", uri) from error


def read_manifest(root: str, storage: Storage, version: int | None = None) -> Manifest:
    """Read the manifest of a version, of the current one by default.

    Raises
    ------
    CommitError
        If nothing was published, or the version does not exist, or its manifest is damaged.
    """
    numbers = version_numbers(root, storage)
    if not numbers:
        raise CommitError("nothing is published", root, hint="Run the job, or check the URI.")
    number = numbers[-1] if version is None else version
    if number not in numbers:
        raise CommitError("no such version", root, str(number), ", ".join(map(str, numbers)))
    return manifest_of(root, storage, read_version(root, storage, number))


def manifest_of(root: str, storage: Storage, record: Version) -> Manifest:
    """Read the manifest that a version names."""
    uri = storage.join(root, record.manifest)
    try:
        manifest = Manifest.from_json(storage.read(uri))
    except (ValueError, TypeError, KeyError) as error:
        raise CommitError(f"not a manifest ({error})", uri) from error
    return replace(manifest, version=record.version, previous=record.previous)


def metrics_lines(manifest: Manifest) -> bytes:
    """Return the numbers of a publication for dashboards: a JSON object a line with time, name, value, unit, stage."""
    facts = {"units": manifest.num_units, "rows_in": manifest.rows_in, "rows": manifest.rows}
    rows = [(name, float(value), "", "publish") for name, value in facts.items()]
    rows += [(f"rejected_{reason}", float(count), "", "") for reason, count in manifest.rejected.items()]
    for name, value in manifest.stats.items():
        stage, is_time = name.removesuffix("_seconds"), name.endswith("_seconds")
        rows.append(("seconds", value, "s", stage) if is_time else (name, value, _unit(name), ""))
    names = ("name", "value", "unit", "stage")
    lines = (json.dumps({"time": manifest.created} | dict(zip(names, row, strict=True))) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


def _unit(name: str) -> str:
    return "byte" if name.startswith("bytes_") else ""
