"""Units of work: what is read, scored and recorded as one. Ids are hashes, equal on every run.

A unit is the files that belong together (a coadd and its redrock file; the spectra of one plate). Its
id hashes the URIs, their fingerprints and a salt that stands for everything else that changes the
result (checkpoint, configuration), so that a rerun computes only what has no record yet.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file of a release as it was listed; `fingerprint` is its etag, or size and mtime."""

    uri: str
    size: int
    fingerprint: str
    role: str = "data"


@dataclass(frozen=True, slots=True)
class Unit:
    """Files that are processed as one block.

    `key` names the unit for people (`main-dark-23040`); `missing` are URIs that an index promised and
    that are not there; `id` is empty until `with_id`.
    """

    key: str
    files: tuple[FileRef, ...]
    missing: tuple[str, ...] = ()
    id: str = ""

    @property
    def num_bytes(self) -> int:
        """Size of all files [bytes]."""
        return sum(file.size for file in self.files)

    def file(self, role: str) -> FileRef | None:
        """Return the first file of a role, None if there is none."""
        return next((file for file in self.files if file.role == role), None)

    def to_json(self) -> str:
        """Return the unit as JSON; `from_json` is the inverse."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Unit":
        """Return the unit that `to_json` wrote."""
        fields = json.loads(text)
        files = tuple(FileRef(**file) for file in fields.pop("files"))
        return Unit(files=files, missing=tuple(fields.pop("missing")), **fields)


@dataclass(frozen=True, slots=True)
class Work:
    """A unit as it goes through a pipeline of one or several branches.

    Parameters
    ----------
    unit
        What is to be read.
    ids
        Its id in each branch, as each names it; empty where the branch has it already.
    """

    unit: Unit
    ids: tuple[str, ...]

    @property
    def key(self) -> str:
        """What tells it from all other work of a run."""
        return f"{self.unit.key} {' '.join(self.ids)}"

    def branches(self) -> Iterator[tuple[int, Unit]]:
        """Yield the number of each branch that needs the unit, and the unit with its id there."""
        return (
            (number, replace(self.unit, id=unit_id)) for number, unit_id in enumerate(self.ids) if unit_id
        )

    def to_json(self) -> str:
        """Return it as JSON; `from_json` is the inverse."""
        return json.dumps([self.unit.to_json(), self.ids])

    @staticmethod
    def from_json(text: str) -> "Work":
        """Return what `to_json` wrote."""
        unit, ids = json.loads(text)
        return Work(Unit.from_json(unit), tuple(ids))


def given_up_id(unit_id: str) -> str:
    """Id of the record of a unit that was given up: beside its own, which it may still get from a later run."""
    return content_hash([unit_id, "given up"])


def content_hash(value: Any, size: int = 16) -> str:
    """Hex blake2b of a JSON-able value, the same on every machine and run."""
    return _hash(_canonical(value), size)


def with_ids(units: Iterable[Unit], salt: Mapping[str, Any]) -> list[Unit]:
    """Give every unit its id: a hash of its files, their fingerprints, and `salt`.

    It is `content_hash([unit without its id as a dict, salt])`; the salt becomes text once, for there may be a million
    units.
    """
    end = f",{_canonical(salt)}]"
    return [replace(unit, id=_hash(f"[{_canonical(_fields(unit))}{end}", 16)) for unit in units]


def _fields(unit: Unit) -> dict[str, Any]:
    """`dataclasses.asdict` of a unit without its id, five times as fast."""
    files = [
        {"uri": file.uri, "size": file.size, "fingerprint": file.fingerprint, "role": file.role}
        for file in unit.files
    ]
    return {"key": unit.key, "files": files, "missing": unit.missing, "id": ""}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def _hash(text: str, size: int) -> str:
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()
