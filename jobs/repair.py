"""Find what storage, or a hand in the bucket, has damaged, so that `reprocess --repair` makes it anew.

Every byte of the current version and of the fragments that it is made of is read. A unit whose record or fragment is
damaged loses its record and is computed again; a version with a damaged file gets a successor of the same content,
merged from the fragments. Nothing that is whole is computed again, nothing is changed in place.

Not here: older versions, which `prune` removes; manifests, without which nobody knows what should be there.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from engine.commit.manifest import DataFile
from engine.errors import CommitError
from engine.ledger import Ledger, LedgerRecord
from engine.locations import NotFoundError
from engine.storage import Storage
from jobs.parts import Parts

READ_THREADS = 8
"""Files read at once, each of them whole."""


def repairing(ready: Parts, plan: bool = False) -> Parts:
    """Return the pipeline that makes anew what is damaged as well, and says what that is.

    Parameters
    ----------
    ready
        As `assemble` gives it.
    plan
        Only look: records of damaged units stay.

    Raises
    ------
    StorageError
        If storage does not answer: what cannot be read now is not taken for damaged.
    """
    root, storage, version = ready.output.uri, ready.storage, ready.base.version if ready.base else 0
    ledger, pending = Ledger(root, storage), {unit.id for unit in ready.pending}
    files = ready.base.files if ready.base else ()
    with ThreadPoolExecutor(READ_THREADS) as pool:
        whole = list(pool.map(lambda file: _is_whole(file, root, storage), files))
        stored = list(pool.map(lambda unit: unit.id in pending or _is_stored(unit.id, ledger), ready.units))
    lost = [unit for unit, is_stored in zip(ready.units, stored, strict=True) if not is_stored]
    damaged = [file.path for file, is_whole in zip(files, whole, strict=True) if not is_whole]
    for unit in () if plan else lost:
        ledger.forget(unit.id)
    todo = pending | {unit.id for unit in lost}
    told = [f"damaged: {path}: version {version} gets a successor" for path in damaged]
    told += [f"damaged: what is stored of {unit.key}: computed again" for unit in lost]
    return replace(
        ready,
        pending=[unit for unit in ready.units if unit.id in todo],
        damaged_version=version if damaged else 0,
        damage=tuple(told or ["damaged: nothing"]),
    )


def _is_whole(file: DataFile, root: str, storage: Storage) -> bool:
    """Whether a file is there, byte for byte."""
    try:
        data = storage.read(storage.join(root, file.path))
    except NotFoundError:
        return False
    return hashlib.sha256(data).hexdigest() == file.sha256


def _is_stored(unit_id: str, ledger: Ledger) -> bool:
    """Whether the record of a unit can be read, and the rows that it tells of."""
    try:
        record = ledger.read(unit_id)
    except (CommitError, NotFoundError):
        return False
    fragment = DataFile(record.fragment, record.rows, record.num_bytes, record.sha256)
    return (not record.fragment or _is_whole(fragment, ledger.root, ledger.storage)) and _has_rejected(
        record, ledger
    )


def _has_rejected(record: LedgerRecord, ledger: Ledger) -> bool:
    """Whether the rejected rows of a unit can be read; their file has no checksum in the record."""
    if not record.rejected_fragment:
        return True
    try:
        data = ledger.storage.read(ledger.storage.join(ledger.root, record.rejected_fragment))
        return pq.read_table(pa.BufferReader(data)).num_rows == record.rejected_rows
    except (NotFoundError, pa.ArrowException, OSError):
        return False
