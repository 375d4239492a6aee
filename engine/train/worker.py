"""What each worker of a training run does: epoch after epoch, all agree, worker 0 stores the state."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import ray.train
import torch
from ray.data import DataIterator
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import get_device, prepare_model

from engine.storage import Storage
from engine.train.board import Poster
from engine.train.epochs import OnStep, module_weights, run_epoch, with_modules
from engine.train.plan import EpochPlan, TrainConfig
from engine.train.state import Progress, RunState, load_state, save_state, stored_epochs

if TYPE_CHECKING:
    from models.spec import TrainTask

logger = logging.getLogger(__name__)

TRAIN, MIXED = "train", "mixed"
"""Names of the data sets of a run: that which is learned, and what is mixed into it."""


@dataclass(frozen=True)
class Job:
    """What a worker gets."""

    factory: "Callable[[], TrainTask]"
    config: TrainConfig
    plan: EpochPlan
    total_steps: int
    run_uri: str
    storage: Storage
    readers_compute: bool
    board: Any = field(repr=False)


def work(settings: dict[str, Any]) -> RunState | None:
    """Run the loop of one worker. Worker 0 returns the final state."""
    job: Job = settings["job"]
    context = ray.train.get_context()
    torch.set_num_threads(num_threads(job.config, context.get_local_world_size(), job.readers_compute))
    task = job.factory()
    task.start(get_device(), job.total_steps)
    bare = dict(task.modules)
    state = _restored(task, job)
    if context.get_world_size() > 1:
        task.modules.update({n: prepare_model(m, move_to_device=False) for n, m in bare.items()})
    poster = Poster(job.board, is_active=context.get_world_rank() == 0)
    while not state.progress.is_finished(job.config.epochs):
        _run_epoch(state, task, bare, job, poster.on_step)
        if context.get_world_rank() == 0:
            _store(state, task, bare, job)
        poster.post(state.progress.history[-1])
    return state if context.get_world_rank() == 0 else None


def _run_epoch(
    state: RunState, task: "TrainTask", bare: Mapping[str, Any], job: Job, on_step: OnStep
) -> None:
    """Do the next epoch of the run, and keep the weights if they are the best so far."""
    progress, config = state.progress, job.config
    mixed = _tables(MIXED) if job.plan.mix else ()
    epoch = run_epoch(task, bare, _tables(TRAIN), job.plan, progress.epoch, progress.step, on_step, mixed)
    state.progress = progress.after_epoch(
        epoch.metrics,
        epoch.next_step,
        epoch.step_losses,
        config.early_stop_patience,
        config.early_stop_min_delta,
    )
    if state.progress.best_epoch == state.progress.epoch:
        state.best = module_weights(bare)


def _tables(name: str) -> Iterable[pa.Table]:
    """Rows of this worker of a set, once."""
    shard = cast(DataIterator, ray.train.get_dataset_shard(name))
    # None (whole blocks) is documented for batch_size, though its annotation says int (Ray 2.60).
    return shard.iter_batches(batch_size=cast(int, None), batch_format="pyarrow", prefetch_batches=2)


def num_threads(config: TrainConfig, workers_here: int, readers_compute: bool) -> int:
    """Return the threads of torch: a fair share of the cores, or half of it where readers need the other half.

    A thread that shares its core with a reader holds up all others at the end of each layer.
    """
    fair = max(1, (os.cpu_count() or 1) // workers_here)
    return config.threads_per_worker or (max(1, fair // 2) if readers_compute else fair)


def _restored(task: "TrainTask", job: Job) -> RunState:
    """Return the newest state, the same one on all workers, or that of a run which has not begun."""
    epochs = stored_epochs(job.run_uri, job.storage)
    epoch = broadcast_from_rank_zero(epochs[-1] if epochs else 0)
    if not epoch:
        return RunState(Progress(), {}, {})
    state = load_state(job.run_uri, job.storage, epoch)
    task.load_state_dict(state.task)
    logger.info("going on with epoch %d", epoch + 1)
    return state


def _store(state: RunState, task: "TrainTask", bare: Mapping[str, Any], job: Job) -> None:
    """Store the state if it is time to; only one worker does."""
    progress, config = state.progress, job.config
    if progress.epoch % config.checkpoint_every_epochs and not progress.is_finished(config.epochs):
        return
    with with_modules(task, bare):
        state.task = task.state_dict()
    save_state(state, job.run_uri, job.storage, config.checkpoints_to_keep)
    state.task = {}
