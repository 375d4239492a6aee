"""The ledger: one small immutable record a finished unit, created at most once.

The first record of a unit wins; what a retried or zombie worker wrote besides is an orphan that nobody
reads. "Which units are done" is a listing.
"""

import json
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace

from engine.errors import CommitError
from engine.storage import FileInfo, Storage

READ_THREADS = 32
"""Records read at once: they are small, so latency is what counts."""
READ_AHEAD = 10_000
"""Records that are asked for at once: each that is waited for takes as much memory as a record."""


@dataclass(frozen=True, slots=True)
class LedgerRecord:
    """What became of one unit.

    Parameters
    ----------
    unit_id, unit_key
        Content id, and the name for people.
    attempt
        Random token of the worker's attempt that won.
    fragment, rejected_fragment
        Parquet files with rows and rejections, relative to the catalogue root; empty if there are none.
    rows_in
        Objects that the files held.
    rows
        Rows in the fragment.
    rejected
        Rows of the rejected fragment by reason: objects and whole files.
    rejected_files
        How many of these are files (they count no object).
    sha256, num_bytes
        Of the fragment [bytes].
    pixels
        Rows by HEALPix pixel of order 8; empty where the table has no positions.
    stats
        Numbers of the source and the stages (bytes fetched, seconds, ...), for reports only.
    unit
        The unit itself as JSON (`Unit.to_json`): its files and their fingerprints.
    """

    unit_id: str
    unit_key: str
    attempt: str
    fragment: str
    rejected_fragment: str
    rows_in: int
    rows: int
    rejected: dict[str, int] = field(default_factory=dict)
    rejected_files: int = 0
    sha256: str = ""
    num_bytes: int = 0
    pixels: dict[str, int] = field(default_factory=dict)
    stats: dict[str, float] = field(default_factory=dict)
    unit: str = ""

    @property
    def is_given_up(self) -> bool:
        """Whether it tells of a unit that was given up, because workers died of it."""
        return "worker_died" in self.rejected

    @property
    def rejected_rows(self) -> int:
        """Rows of the rejected fragment, files included."""
        return sum(self.rejected.values())

    def to_json(self) -> str:
        """Return the record as JSON; `from_json` is the inverse."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str | bytes) -> "LedgerRecord":
        """Return the record that `to_json` wrote."""
        return LedgerRecord(**json.loads(text))


@dataclass(frozen=True)
class Ledger:
    """Records of all units below a catalogue root."""

    root: str
    storage: Storage

    def ids(self) -> set[str]:
        """Ids of the units that have a record: one listing, nothing is read."""
        return {_id(info) for info in self._list()}

    def times(self) -> dict[str, float]:
        """When the record of each unit was made, by the clock of the storage [s, Unix time]: one listing."""
        return {_id(info): info.modified_s for info in self._list()}

    def done(self, ids: Collection[str] | None = None, with_units: bool = True) -> dict[str, LedgerRecord]:
        """Read the records of the units asked for, of all units by default; missing ones are left out.

        Without `with_units` their `unit` is empty: whoever knows the units need not hold their files twice.
        """
        found = self.ids()
        wanted = found if ids is None else found & set(ids)
        records = self._read_all(sorted(wanted))
        return {r.unit_id: r if with_units else replace(r, unit="") for r in records}

    def read(self, unit_id: str) -> LedgerRecord:
        """Read one record.

        Raises
        ------
        CommitError
            If it is not a record.
        """
        uri = self.uri(unit_id)
        text = self.storage.read(uri)
        try:
            record = LedgerRecord.from_json(text)
        except (ValueError, TypeError, AttributeError) as error:
            raise CommitError(f"not a ledger record ({error})", uri) from error
        if record.unit_id != unit_id:
            raise CommitError("ledger record of another unit", uri, got=record.unit_id, expected=unit_id)
        return record

    def record(self, record: LedgerRecord) -> bool:
        """Create the record; False if the unit has one already, which then stands."""
        return self.storage.put_if_absent(self.uri(record.unit_id), record.to_json().encode())

    def forget(self, unit_id: str) -> None:
        """Remove a record: the unit is then computed anew where it is asked for again. For `prune` and `--repair`."""
        self.storage.delete(self.uri(unit_id))

    def uri(self, unit_id: str) -> str:
        """URI of the record of a unit."""
        return self.storage.join(self.root, "ledger", f"{unit_id}.json")

    def _list(self) -> Iterator[FileInfo]:
        return self.storage.list(self.storage.join(self.root, "ledger"), ".json")

    def _read_all(self, ids: list[str]) -> Iterator[LedgerRecord]:
        with ThreadPoolExecutor(READ_THREADS) as pool:
            for start in range(0, len(ids), READ_AHEAD):
                yield from pool.map(self.read, ids[start : start + READ_AHEAD])


def _id(info: FileInfo) -> str:
    return info.uri.rpartition("/")[2].removesuffix(".json")
