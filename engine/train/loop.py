"""Train any `TrainTask` with Ray Train from staged Parquet: one worker or many, resumable.

1. Files: Parquet with the task's columns and `split_hash`, in an order that the seed decides.
2. Ray Data reads them in that order and splits the stream among the workers.
3. Each worker divides its rows into training and monitored ones, shuffles the former within a bounded
   buffer, and takes steps (`engine.train.epochs`). With one worker the batches are a function of files, seed
   and epoch: a bare loop with `engine.train.batches` gives the same losses.
4. After an epoch all workers agree on the metrics; worker 0 stores the state (`engine.train.state`).
5. The run is named by what it depends on. The same call again, after whatever stopped it, goes on after
   the last stored epoch; a finished run only returns its result, without starting a worker.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pyarrow.fs as pafs
import ray
import ray.train
from ray.data import DataContext, DataIterator, Dataset, Datasource, ExecutionOptions, ReadTask
from ray.data.block import BlockMetadata
from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchTrainer, get_device, prepare_model
from ray.train.v2.api.exceptions import TrainingFailedError

from engine.errors import EngineError, ResourceError
from engine.locations import is_object
from engine.storage import Storage, canonical
from engine.train.batches import SPLIT_COLUMN, read_tables
from engine.train.epochs import Metrics, OnStep, module_weights, run_epoch, with_modules
from engine.train.plan import (
    EpochPlan,
    TrainConfig,
    TrainData,
    TrainResult,
    check_rows,
    epoch_plan,
    expected_steps,
    ordered_files,
    run_name,
)
from engine.train.state import Progress, RunState, load_state, save_state, stored_epochs, to_numpy
from engine.units import FileRef

if TYPE_CHECKING:
    from models.spec import TrainTask

__all__ = ["TrainConfig", "TrainData", "TrainResult", "train"]

logger = logging.getLogger(__name__)

WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads of torch must not spin while they wait: reading shares the CPUs, and a step then took 5 to 8
times as long (measured on 2 cores, torch 2.13 with libgomp). Read when the library is loaded."""

POST_EVERY_S = 10.0
"""Shortest time between two messages about steps from a worker."""


@dataclass(frozen=True)
class _Job:
    """What a worker gets."""

    factory: "Callable[[], TrainTask]"
    config: TrainConfig
    plan: EpochPlan
    total_steps: int
    run_uri: str
    storage: Storage
    board: Any = field(repr=False)


def train(
    factory: "Callable[[], TrainTask]",
    data: TrainData,
    config: TrainConfig,
    runs_uri: str,
    storage: Storage,
    identity: Mapping[str, Any],
    on_progress: Callable[[dict[str, float]], None] = lambda _: None,
) -> TrainResult:
    """Train, or go on with a run that was stopped. Ray must be connected.

    Parameters
    ----------
    factory
        Makes a fresh task on each worker; picklable.
    data
        What to train on.
    runs_uri
        Folder of runs; this one gets a folder named by its id in it.
    identity
        Everything else that the run depends on (model, version, its configuration), JSON-able.
    on_progress
        Called in the driver with the metrics of each epoch, and now and then with those of a step
        (these have no `val_*`).

    Raises
    ------
    ConfigError
        If there are too few rows for a batch, or the batch does not divide among the workers.
    ResourceError
        If the cluster can never give what the workers ask for.
    EngineError
        If training failed or diverged.
    """
    check_rows(data, config)
    run_id = run_name(data, config, identity)
    run_uri = storage.join(runs_uri, run_id)
    logger.info("training run %s", run_uri)
    state = _newest_state(run_uri, storage)
    if not _is_finished(state.progress, config):
        state = _train(factory, data, config, run_uri, storage, on_progress)
    return _result(state, run_id)


def _train(
    factory: "Callable[[], TrainTask]",
    data: TrainData,
    config: TrainConfig,
    run_uri: str,
    storage: Storage,
    on_progress: Callable[[dict[str, float]], None],
) -> RunState:
    """Start the workers, and return the state in which they end."""
    use_gpu = _use_gpu(config)
    board = ray.remote(num_cpus=0)(_Board).remote()
    plan, total_steps = epoch_plan(data, config), expected_steps(data.num_rows, config)
    job = _Job(factory, config, plan, total_steps, run_uri, storage, board)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job},
        datasets={"train": _dataset(data, config, storage)},
        dataset_config=DataConfig(execution_options=ExecutionOptions(preserve_order=True)),
        scaling_config=ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker} | ({"GPU": 1} if use_gpu else {}),
        ),
        run_config=_run_config(run_uri, storage, config),
    )
    with _forwarded(board, on_progress):
        return _fit(trainer, run_uri)


def _newest_state(run_uri: str, storage: Storage) -> RunState:
    epochs = stored_epochs(run_uri, storage)
    return load_state(run_uri, storage, epochs[-1]) if epochs else RunState(Progress(), {}, {})


def _is_finished(progress: Progress, config: TrainConfig) -> bool:
    return progress.epoch >= config.epochs or bool(progress.stopped)


def _use_gpu(config: TrainConfig) -> bool:
    """Decide on the device, and refuse what would wait for resources for ever."""
    have = ray.cluster_resources()
    gpus, cpus = have.get("GPU", 0), have.get("CPU", 0)
    use_gpu = config.device == "cuda" or (config.device == "auto" and gpus >= config.num_workers)
    logger.info("training on %s: cluster has %g GPUs", "GPUs" if use_gpu else "CPUs", gpus)
    wanted_cpus = config.num_workers * config.cpus_per_worker + config.read_cpus
    wanted_gpus = config.num_workers if use_gpu else 0
    if cpus < wanted_cpus or gpus < wanted_gpus:
        raise ResourceError(
            "the cluster cannot give what training asks for",
            "train",
            got=f"{cpus:g} CPUs, {gpus:g} GPUs",
            expected=f"{wanted_cpus:g} CPUs (reading included), {wanted_gpus} GPUs",
            hint="Lower train.num_workers or train.cpus_per_worker, or set train.device.",
        )
    return use_gpu


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


def _dataset(data: TrainData, config: TrainConfig, storage: Storage) -> Dataset:
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    files = ordered_files(data, config.seed)
    source = StagedDatasource(files, [*data.columns, SPLIT_COLUMN], storage)
    with DataContext.current(context):  # a dataset keeps the context that it was made in
        return ray.data.read_datasource(source, num_cpus=config.read_cpus, override_num_blocks=len(files))


def _run_config(run_uri: str, storage: Storage, config: TrainConfig) -> RunConfig:
    """Say where Ray may write: it checks that all nodes reach the folder, but stores no state of its own."""
    root, name = canonical(run_uri).rsplit("/", 1)
    is_local = not is_object(root)
    return RunConfig(
        name=name,
        storage_path=root.removeprefix("s3://"),
        storage_filesystem=None
        if is_local
        else pafs.PyFileSystem(pafs.FSSpecHandler(storage.filesystem(root))),
        failure_config=FailureConfig(max_failures=config.max_failures),
        worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
    )


def _fit(trainer: TorchTrainer, where: str) -> RunState:
    try:
        return cast(RunState, trainer.fit().return_value)
    except TrainingFailedError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise EngineError(
            "training failed",
            where,
            got=lines[-1].strip() if lines else type(error).__name__,
            hint="The same call again goes on after the last stored epoch.",
        ) from error


def _result(state: RunState, run_id: str) -> TrainResult:
    progress = state.progress
    best = progress.best_metrics(f"run {run_id}")
    return TrainResult(
        to_numpy(state.best), best, progress.history, progress.step_losses, run_id, progress.stopped
    )


class _Board:
    """An actor that carries messages from worker 0 to the driver."""

    def __init__(self) -> None:
        self._messages: list[dict[str, float]] = []

    def post(self, message: dict[str, float]) -> None:
        """Append a message."""
        self._messages.append(message)

    def take(self) -> list[dict[str, float]]:
        """Return the messages since the last call."""
        messages, self._messages = self._messages, []
        return messages


@contextmanager
def _forwarded(board: Any, on_progress: Callable[[dict[str, float]], None]) -> Iterator[None]:
    """Hand the workers' messages to `on_progress` from a thread, while `fit` blocks this one."""
    finished = threading.Event()

    def forward() -> None:
        while True:
            last = finished.wait(0.5)
            for message in ray.get(board.take.remote()):
                on_progress(message)
            if last:
                return

    thread = threading.Thread(target=forward, name="training-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def _work(settings: dict[str, Any]) -> RunState | None:
    """Run the loop of one worker. Worker 0 returns the final state."""
    import torch

    job: _Job = settings["job"]
    context = ray.train.get_context()
    torch.set_num_threads(job.config.threads_per_worker or _fair_threads(context.get_local_world_size()))
    task = job.factory()
    task.start(get_device(), job.total_steps)
    bare = dict(task.modules)
    state = _restored(task, job)
    if context.get_world_size() > 1:
        task.modules.update({n: prepare_model(m, move_to_device=False) for n, m in bare.items()})
    poster = _Poster(job, is_active=context.get_world_rank() == 0)
    while not _is_finished(state.progress, job.config):
        _run_epoch(state, task, bare, job, poster.on_step)
        if context.get_world_rank() == 0:
            _store(state, task, bare, job)
        poster.post(state.progress.history[-1])
    return state if context.get_world_rank() == 0 else None


def _run_epoch(
    state: RunState, task: "TrainTask", bare: Mapping[str, Any], job: _Job, on_step: OnStep
) -> None:
    """Do the next epoch of the run, and keep the weights if they are the best so far."""
    shard = cast(DataIterator, ray.train.get_dataset_shard("train"))
    # None (whole blocks) is documented for batch_size, though its annotation says int (Ray 2.60).
    tables = shard.iter_batches(batch_size=cast(int, None), batch_format="pyarrow", prefetch_batches=2)
    progress, config = state.progress, job.config
    epoch = run_epoch(task, bare, tables, job.plan, progress.epoch, progress.step, on_step)
    state.progress = progress.after_epoch(
        epoch.metrics,
        epoch.next_step,
        epoch.step_losses,
        config.early_stop_patience,
        config.early_stop_min_delta,
    )
    if state.progress.best_epoch == state.progress.epoch:
        state.best = module_weights(bare)


def _fair_threads(workers_here: int) -> int:
    import os

    return max(1, (os.cpu_count() or 1) // workers_here)


class _Poster:
    """Posts epochs, and steps at most every `POST_EVERY_S`."""

    def __init__(self, job: _Job, is_active: bool) -> None:
        self._board, self._is_active = job.board, is_active
        self._last = time.monotonic()

    def post(self, metrics: Metrics) -> None:
        if self._is_active:
            self._board.post.remote(metrics)
            self._last = time.monotonic()

    def on_step(self, step: int, metrics: Metrics) -> None:
        if time.monotonic() - self._last > POST_EVERY_S:
            self.post({"step": float(step), **metrics})


def _restored(task: "TrainTask", job: _Job) -> RunState:
    """Return the newest state, the same one on all workers, or that of a run which has not begun."""
    epochs = stored_epochs(job.run_uri, job.storage)
    epoch = broadcast_from_rank_zero(epochs[-1] if epochs else 0)
    if not epoch:
        return RunState(Progress(), {}, {})
    state = load_state(job.run_uri, job.storage, epoch)
    task.load_state_dict(state.task)
    logger.info("going on with epoch %d", epoch + 1)
    return state


def _store(state: RunState, task: "TrainTask", bare: Mapping[str, Any], job: _Job) -> None:
    """Store the state if it is time to; only one worker does."""
    progress, config = state.progress, job.config
    if progress.epoch % config.checkpoint_every_epochs and not _is_finished(progress, config):
        return
    with with_modules(task, bare):
        state.task = task.state_dict()
    save_state(state, job.run_uri, job.storage, config.checkpoints_to_keep)
    state.task = {}
