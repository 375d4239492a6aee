"""Train any `TrainTask` with Ray Train from staged Parquet: one worker or many, resumable.

1. Files: Parquet with the task's columns and `split_hash`, in an order that the seed decides.
2. Ray Data reads them in that order (`engine.train.stream`) and splits the stream among the workers.
3. Each worker divides its rows into training and monitored ones, shuffles the former within a bounded
   buffer, and takes steps (`engine.train.epochs`). With one worker the batches are a function of files, seed
   and epoch: a bare loop with `engine.train.batches` gives the same losses.
4. After an epoch all workers agree on the metrics; worker 0 stores the state (`engine.train.state`).
5. The run is named by what it depends on. The same call again, after whatever stopped it, goes on after
   the last stored epoch; a finished run only returns its result, without starting a worker.
"""

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import pyarrow.fs as pafs
import ray
from ray.data import ExecutionOptions
from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from engine.errors import EngineError
from engine.locations import is_object
from engine.storage import Storage, canonical
from engine.train.board import Board, forwarded
from engine.train.device import uses_gpu
from engine.train.plan import (
    TrainConfig,
    TrainData,
    TrainResult,
    check_rows,
    epoch_plan,
    expected_steps,
    mix_passes,
    run_name,
)
from engine.train.state import RunState, load_progress, load_state, stored_epochs, to_numpy
from engine.train.stream import dataset
from engine.train.worker import MIXED, TRAIN, Job, work

if TYPE_CHECKING:
    from models.spec import TrainTask

__all__ = ["TrainConfig", "TrainData", "TrainResult", "train"]

logger = logging.getLogger(__name__)

WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads of torch must not spin while they wait: reading shares the CPUs, and a step then took 5 to 8
times as long (measured on 2 cores, torch 2.13 with libgomp). Read when the library is loaded."""


def train(
    factory: "Callable[[], TrainTask]",
    data: TrainData,
    config: TrainConfig,
    runs_uri: str,
    storage: Storage,
    identity: Mapping[str, Any],
    on_progress: Callable[[dict[str, float]], None] = lambda _: None,
    may_grow: bool = False,
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
    may_grow
        Whether the cluster makes nodes on demand; see `engine.train.device`.

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
    state = _finished_state(run_uri, storage, config.epochs)
    if state is None:
        use_gpu = uses_gpu(config, [node["Resources"] for node in ray.nodes() if node["Alive"]], may_grow)
        state = _train(factory, data, config, run_uri, storage, on_progress, use_gpu)
    return _result(state, run_id)


def _train(
    factory: "Callable[[], TrainTask]",
    data: TrainData,
    config: TrainConfig,
    run_uri: str,
    storage: Storage,
    on_progress: Callable[[dict[str, float]], None],
    use_gpu: bool,
) -> RunState:
    """Start the workers, and return the state in which they end."""
    board = ray.remote(num_cpus=0)(Board).remote()
    plan, total_steps = epoch_plan(data, config), expected_steps(data.num_rows, config)
    readers_compute = data.realisations is not None
    job = Job(factory, config, plan, total_steps, run_uri, storage, readers_compute, board)
    trainer = TorchTrainer(
        work,
        train_loop_config={"job": job},
        datasets=_datasets(data, config, storage),
        dataset_config=DataConfig(execution_options=ExecutionOptions(preserve_order=True)),
        scaling_config=ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker} | ({"GPU": 1} if use_gpu else {}),
        ),
        run_config=_run_config(run_uri, storage, config),
    )
    with forwarded(board, on_progress):
        return _fit(trainer, run_uri)


def _datasets(data: TrainData, config: TrainConfig, storage: Storage) -> dict[str, Any]:
    """Return what the workers read: the set, and what is mixed into it."""
    sets = {TRAIN: dataset(data, config, storage)}
    if data.mix:
        passes = mix_passes(data.mix, expected_steps(data.num_rows, config) // config.epochs, config)
        sets[MIXED] = dataset(data.mix.data, config, data.mix.storage, passes)
    return sets


def _finished_state(run_uri: str, storage: Storage, epochs: int) -> RunState | None:
    stored = stored_epochs(run_uri, storage)
    if stored and load_progress(run_uri, storage, stored[-1]).is_finished(epochs):
        return load_state(run_uri, storage, stored[-1])
    return None


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
