"""The stream of staged rows: what Ray Data reads for the workers of a training run.

Apart from `loop`, because Ray's readers and coordinators import what they hold: torch would cost each of them
seconds.
"""

from collections.abc import Sequence
from functools import partial

import ray.data
from ray.data import DataContext, Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata

from engine.storage import Storage
from engine.train.batches import SPLIT_COLUMN, read_tables
from engine.train.plan import TrainConfig, TrainData, ordered_files
from engine.units import FileRef


class StagedDatasource(Datasource):
    """Staged Parquet, one read task a file, in order.

    Not `read_parquet`: that of Ray 2.60 starts 32 actors that read footers, anew for every epoch.
    """

    def __init__(self, files: Sequence[FileRef], columns: Sequence[str], storage: Storage) -> None:
        super().__init__()
        self._files, self._columns, self._storage = list(files), list(columns), storage

    def estimate_inmemory_data_size(self) -> int:
        """Size of all files [bytes]."""
        return sum(file.size for file in self._files)

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002 - one task a file, whatever Ray would like
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """Return one task a file."""
        return [self._task(file, per_task_row_limit) for file in self._files]

    def _task(self, file: FileRef, row_limit: int | None) -> ReadTask:
        metadata = BlockMetadata(num_rows=None, size_bytes=file.size, input_files=None, exec_stats=None)
        read = partial(read_tables, [file.uri], self._columns, self._storage)
        return ReadTask(read, metadata, per_task_row_limit=row_limit)


def dataset(data: TrainData, config: TrainConfig, storage: Storage) -> Dataset:
    """Return the rows of all files, in the order of the seed, with the column that splits them."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    files = ordered_files(data, config.seed)
    source = StagedDatasource(files, [*data.columns, SPLIT_COLUMN], storage)
    with DataContext.current(context):  # a dataset keeps the context that it was made in
        return ray.data.read_datasource(source, num_cpus=config.read_cpus, override_num_blocks=len(files))
