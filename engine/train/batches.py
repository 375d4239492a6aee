"""From Arrow tables to batches of arrays: shuffled within a bounded buffer, or in order.

The mental model: rows arrive as a stream of tables of any size. `Splitter` sorts them by the hash of
their key into training rows, which go on, and monitored validation rows, which it keeps for the end of
the epoch. `shuffled_batches` holds `buffer_rows` of the rest and hands out random ones.

How the stream is cut into tables changes nothing: the batches are a function of the order of the rows,
the seed and the epoch. So a bare loop over the same files sees the batches that Ray's workers see.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.schema import Arrays, to_arrays
from engine.storage import Storage

SPLIT_COLUMN = "split_hash"
"""Column that decides the split: float64 in [0, 1), a hash of the key; validation is below the fraction."""


def read_tables(
    uris: Iterable[str], columns: Sequence[str], storage: Storage, rows_per_table: int = 1024
) -> Iterator[pa.Table]:
    """Yield the rows of Parquet files, in order, a bounded number at a time."""
    for uri in uris:
        with storage.open_input(uri) as file, pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(rows_per_table, columns=list(columns)):
                yield pa.Table.from_batches([batch])


class Splitter:
    """Divide a stream of tables: training rows pass through, monitored rows are kept.

    Parameters
    ----------
    validation_fraction
        Rows with `split_hash` below it never train.
    monitored_fraction
        Rows with `split_hash` below it are kept in `monitored`; at most `validation_fraction`. Smaller
        on large data, so that what is kept stays small; a random part, as it goes by the hash.
    """

    def __init__(self, validation_fraction: float, monitored_fraction: float) -> None:
        self.validation_fraction = validation_fraction
        self.monitored_fraction = min(monitored_fraction, validation_fraction)
        self.monitored: list[pa.Table] = []

    def training_rows(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield the training rows of each table, without the split column."""
        for table in tables:
            hashes = table[SPLIT_COLUMN].to_numpy()
            table = table.drop_columns([SPLIT_COLUMN])
            keep = hashes < self.monitored_fraction
            if keep.any():
                self.monitored.append(table.filter(pa.array(keep)))
            trains = hashes >= self.validation_fraction
            yield table if trains.all() else table.filter(pa.array(trains))


def sequential_batches(
    tables: Iterable[pa.Table], columns: Sequence[str], batch_rows: int
) -> Iterator[Arrays]:
    """Yield the rows in order, `batch_rows` at a time; the last batch may be smaller."""
    waiting: list[pa.Table] = []
    num_waiting = 0
    for table in tables:
        waiting.append(table.select(list(columns)))
        num_waiting += table.num_rows
        if num_waiting < batch_rows:
            continue
        whole = pa.concat_tables(waiting)
        last = num_waiting - num_waiting % batch_rows
        for start in range(0, last, batch_rows):
            yield to_arrays(whole.slice(start, batch_rows), columns)
        waiting, num_waiting = [whole.slice(last)], num_waiting - last
    if num_waiting:
        yield to_arrays(pa.concat_tables(waiting), columns)


def shuffled_batches(
    tables: Iterable[pa.Table],
    columns: Sequence[str],
    batch_rows: int,
    buffer_rows: int,
    seed: int,
    epoch: int,
) -> Iterator[Arrays]:
    """Yield random batches of exactly `batch_rows`; the remainder that fills no batch is dropped.

    A full buffer gives one batch of random rows and is filled up again from the stream, so that a row
    can come out long after its neighbours. Memory: `buffer_rows` rows, one table and one batch.

    Parameters
    ----------
    tables
        Stream of tables, each with all of `columns`.
    buffer_rows
        Rows held; raised to `batch_rows` if smaller. As large as the stream: a perfect shuffle.
    seed, epoch
        Batches are the same for the same rows, seed and epoch.
    """
    buffer = _ShuffleBuffer(max(buffer_rows, batch_rows), np.random.default_rng([seed, epoch]))
    for table in tables:
        arrays, start = to_arrays(table, columns), 0
        while start < table.num_rows:
            start += buffer.fill(arrays, start)
            if buffer.is_full:
                yield buffer.draw(batch_rows)
    while buffer.num_rows >= batch_rows:
        yield buffer.draw(batch_rows)


class _ShuffleBuffer:
    """Arrays of fixed capacity; rows go into free slots in order and leave from random ones."""

    def __init__(self, capacity: int, rng: np.random.Generator) -> None:
        self._used = np.zeros(capacity, bool)
        self._rng = rng
        self._arrays: Arrays = {}
        self.num_rows = 0

    @property
    def is_full(self) -> bool:
        return self.num_rows == len(self._used)

    def fill(self, rows: Arrays, start: int) -> int:
        """Copy rows from `start` on into the free slots; return how many found room."""
        free = np.flatnonzero(~self._used)
        num = min(len(free), min(map(len, rows.values())) - start)
        slots = free[:num]
        for name, values in rows.items():
            self._slots_of(name, values)[slots] = values[start : start + num]
        self._used[slots] = True
        self.num_rows += num
        return num

    def _slots_of(self, name: str, values: np.ndarray) -> np.ndarray:
        if name not in self._arrays:
            self._arrays[name] = np.empty((len(self._used), *values.shape[1:]), values.dtype)
        return self._arrays[name]

    def draw(self, num: int) -> Arrays:
        """Take `num` random rows out."""
        slots = self._rng.choice(np.flatnonzero(self._used), num, replace=False)
        self._used[slots] = False
        self.num_rows -= num
        return {name: values[slots] for name, values in self._arrays.items()}
