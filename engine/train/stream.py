"""The stream of staged rows: what Ray Data reads for the workers of a training run.

Apart from `loop`, because Ray's readers and coordinators import what they hold: torch would cost each of them
seconds.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow as pa
import ray.data
from ray.data import DataContext, Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata

from engine.storage import Storage
from engine.train.batches import SPLIT_COLUMN, read_tables
from engine.train.plan import Realisations, TrainConfig, TrainData, ordered_files
from engine.train.standins import StandIns
from engine.units import FileRef

MADE_ROWS, MADE_BYTES = 128, 32 << 20
"""Rows that are made at once where rows are made, and size of a block of them: making takes milliseconds a row, and
training waits for the first block of each epoch."""


class StagedDatasource(Datasource):
    """Staged Parquet, one read task a file and realisation, in order.

    Not `read_parquet`: that of Ray 2.60 starts 32 actors that read footers, anew for every epoch.
    """

    def __init__(
        self,
        parts: Sequence[tuple[FileRef, int]],
        columns: Sequence[str],
        storage: Storage,
        realisations: Realisations | None = None,
        stand_ins: StandIns | None = None,
    ) -> None:
        super().__init__()
        self._parts, self._storage = list(parts), storage
        self._realisations, self._stand_ins = realisations, stand_ins
        self._columns = list(columns)

    @property
    def num_parts(self) -> int:
        """Read tasks that there are."""
        return len(self._parts)

    def estimate_inmemory_data_size(self) -> int:
        """Size of all files [bytes]."""
        return sum(file.size for file, _ in self._parts)

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002 - one task a file, whatever Ray would like
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """Return one task a file and realisation."""
        return [self._task(*part, per_task_row_limit) for part in self._parts]

    def _task(self, file: FileRef, number: int, row_limit: int | None) -> ReadTask:
        metadata = BlockMetadata(num_rows=None, size_bytes=file.size, input_files=None, exec_stats=None)
        read = partial(read_tables, [file.uri], self._columns, self._storage)
        if self._realisations:
            read = partial(realised, self._realisations, number, file.uri, self._columns, self._storage)
        elif self._stand_ins:
            read = partial(stood_in, self._stand_ins, file.uri, self._storage)
        return ReadTask(read, metadata, per_task_row_limit=row_limit)


def realised(
    realisations: Realisations, number: int, uri: str, columns: Sequence[str], storage: Storage
) -> Iterator[pa.Table]:
    """Yield the rows of one realisation of a staged file."""
    own = [name for name in columns if name != SPLIT_COLUMN]
    for table in read_tables([uri], [*realisations.reads(own), SPLIT_COLUMN], storage, MADE_ROWS):
        yield realisations(table, number).select(list(columns))


def stood_in(stand_ins: StandIns, uri: str, storage: Storage) -> Iterator[pa.Table]:
    """Yield the rows of a staged file with the columns that the model reads."""
    for table in read_tables([uri], [*stand_ins.reads(), SPLIT_COLUMN], storage):
        yield stand_ins(table, [SPLIT_COLUMN])


def staged(data: TrainData, config: TrainConfig, storage: Storage, passes: int = 1) -> StagedDatasource:
    """Return what reads all files, in the order of the seed, with the column that splits rows; as `dataset`.

    It holds one epoch, which is read again for each: with realisations, all of them, and in all epochs the same.
    """
    count = data.realisations.count if data.realisations else 1
    parts = [
        (file, turn % count)
        for turn in range(passes * count)
        for file in ordered_files(data, config.seed + turn)
    ]
    return StagedDatasource(parts, [*data.columns, SPLIT_COLUMN], storage, data.realisations, data.stand_ins)


def dataset(data: TrainData, config: TrainConfig, storage: Storage, passes: int = 1) -> Dataset:
    """Return the rows of all files, in the order of the seed, with the column that splits them.

    Parameters
    ----------
    data, config, storage
        What is read, how, from where.
    passes
        How often each row comes in an epoch, beside its realisations.
    """
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    if data.realisations:
        context.target_max_block_size = MADE_BYTES
    source = staged(data, config, storage, passes)
    with DataContext.current(context):  # a dataset keeps the context that it was made in
        return ray.data.read_datasource(
            source, num_cpus=config.read_cpus, override_num_blocks=source.num_parts
        )
