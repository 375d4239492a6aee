"""Rows of an equal key: which is kept, and which are not although they lie in other partitions.

Rows of one object normally share a position, so most duplicates meet in one partition. Where positions
differ a little (releases of several kinds, plates) they may not; so partitions also tell hashes of
their keys, 8 bytes a row, and hashes that two partitions share are looked at again.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.flags import REASONS
from engine.partition import mix
from engine.schema import arrow_schema
from engine.stage import REJECTED

_SLICES = 16
"""Hashes are compared in so many ranges, one after the other, to bound memory."""


def sort_indices(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    """Row numbers [rows] in the order of some columns; "-" before a name: largest first; missing last."""
    directions = {"-": "descending"}
    keys = [(name.removeprefix("-"), directions.get(name[:1], "ascending")) for name in names]
    return pc.call_function("sort_indices", [table], pc.SortOptions(keys)).to_numpy()


def first_of_each(table: pa.Table, key: Sequence[str], prefer: Sequence[str]) -> np.ndarray:
    """Tell which rows to keep: of an equal key the first in the order of preference.

    Parameters
    ----------
    table
        Rows with the columns of `key` and `prefer`.
    key
        Columns that name an object, without nulls. Empty: every row is kept.
    prefer
        Columns to order by, see `sort_indices`.

    Returns
    -------
    numpy.ndarray
        bool [rows].
    """
    keep = np.ones(table.num_rows, bool)
    if not key or not table.num_rows:
        return keep
    order = sort_indices(table, (*key, *prefer))
    repeats = np.ones(table.num_rows - 1, bool)
    for name in key:
        column = table[name].take(pa.array(order)).combine_chunks()
        equal = pc.call_function("equal", [column[1:], column[:-1]])
        repeats &= equal.to_numpy(zero_copy_only=False)
    keep[order[1:]] = ~repeats
    return keep


def key_hashes(table: pa.Table, key: Sequence[str]) -> np.ndarray:
    """Hash the key of each row, the same everywhere.

    Returns
    -------
    numpy.ndarray
        uint64 [rows]; 20 million keys share one with a probability of 1e-5.
    """
    hashes = np.zeros(table.num_rows, np.uint64)
    for name in key:
        hashes = mix(hashes ^ _column_hashes(table[name]))
    return hashes


def _column_hashes(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_integer(column.type):
        return mix(column.to_numpy().astype(np.uint64))
    coded = column.combine_chunks().dictionary_encode()
    digests = [
        hashlib.blake2b(repr(v).encode(), digest_size=8).digest() for v in coded.dictionary.to_pylist()
    ]
    return np.frombuffer(b"".join(digests), np.uint64)[coded.indices.to_numpy()]


def shared(hashes: Sequence[np.ndarray]) -> np.ndarray:
    """Hashes [M] that occur in more than one of several sorted arrays [N], or twice in one; sorted, uint64."""
    edges = np.arange(1, _SLICES, dtype=np.uint64) * np.uint64(2**64 // _SLICES)
    cuts = [np.concatenate([[0], np.searchsorted(part, edges), [part.size]]) for part in hashes]
    found = []
    for number in range(_SLICES):
        slices = [part[cut[number] : cut[number + 1]] for part, cut in zip(hashes, cuts, strict=True)]
        values, counts = np.unique(np.concatenate([np.empty(0, np.uint64), *slices]), return_counts=True)
        found.append(values[counts > 1])
    return np.concatenate(found)


def duplicate_rows(rows: pa.Table, key: Sequence[str], prefer: Sequence[str]) -> pa.Table:
    """Return rows that are not kept as rows of `rejected`, from what columns they have."""
    reason = REASONS["duplicate_key"]
    detail = f"another row of the same {', '.join(key)} is first by {', '.join(prefer)}"
    facts = {"reason": reason.code, "kind": reason.kind, "detail": detail}
    sources = {"uri": "source_uri", "row": "source_row"}
    arrays = []
    for field in arrow_schema(REJECTED):
        source = sources.get(field.name, field.name)
        if source in rows.column_names:
            arrays.append(rows[source].cast(field.type))
        else:
            value = facts.get(field.name, None if field.nullable else "")
            arrays.append(pa.array([value] * rows.num_rows, field.type))
    table = pa.Table.from_arrays(arrays, schema=arrow_schema(REJECTED))
    return table.sort_by([(column.name, "ascending") for column in REJECTED])
