"""One epoch of any `TrainTask` over a stream of tables, on one process or many. No Ray in here.

Processes find each other through `torch.distributed` if it is initialised. Each does the same number
of steps: before a step they agree whether all of them still have a batch, because one that waits in a
backward pass for another that has finished would wait for ever.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, distributed, nn

from engine.schema import Arrays
from engine.train.batches import Splitter, sequential_batches
from engine.train.mixing import exhaust, mixed_batches
from engine.train.plan import EpochPlan

if TYPE_CHECKING:
    from models.spec import TrainTask

Metrics = dict[str, float]


@dataclass(frozen=True)
class Epoch:
    """What an epoch gave: the step that comes next, metrics of all processes, losses of this one."""

    next_step: int
    metrics: Metrics
    step_losses: list[float]


OnStep = Callable[[int, Metrics], None]


def run_epoch(
    task: "TrainTask",
    bare: Mapping[str, nn.Module],
    tables: Iterable[pa.Table],
    plan: EpochPlan,
    epoch: int,
    step: int,
    on_step: OnStep,
    mixed: Iterable[pa.Table] = (),
) -> Epoch:
    """Train on each batch of the stream, then evaluate on the monitored rows that went by.

    Parameters
    ----------
    task
        Started; its modules may be wrapped.
    bare
        The modules without wrapping: evaluation must not wait for other processes.
    tables
        Rows of this process, with `split_hash` and the columns of the plan.
    epoch
        Number of the epoch, from 0: decides the order of the batches.
    step
        Number of the first step.
    on_step
        Called after each step with its number and metrics.
    mixed
        Rows of this process of the set that is mixed in, like `tables`; its validation rows take no part.

    Returns
    -------
    Epoch
        Metrics are means over rows of all processes, named `train_*` and `val_*`, and `rows_per_s`.
    """
    started = time.monotonic()
    splitter = Splitter(plan.validation_fraction, plan.monitored_fraction)
    training = splitter.training_rows(tables)
    other = Splitter(plan.validation_fraction, 0.0).training_rows(mixed)
    batches = mixed_batches(training, other, plan, epoch)
    sums, losses = _Sums("train_"), list[float]()
    for batch in _agreed(batches):
        metrics = task.step(batch, step)
        sums.add(metrics, plan.batch_rows)
        losses.append(metrics["loss"])
        on_step(step, metrics)
        step += 1
    exhaust(training, other)  # on all processes, or the next epoch cannot start
    seconds = time.monotonic() - started
    monitored = _evaluate(task, bare, splitter.monitored, plan)
    metrics = _means([*_gathered(sums), *_gathered(monitored)])
    metrics["rows_per_s"] = len(losses) * plan.batch_rows * num_processes() / max(seconds, 1e-9)
    return Epoch(step, metrics, losses)


def num_processes() -> int:
    """Count the processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


@contextmanager
def with_modules(task: "TrainTask", modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Give the task other modules of the same names inside the `with`."""
    before = dict(task.modules)
    task.modules.update(modules)
    try:
        yield
    finally:
        task.modules.update(before)


def module_weights(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """State of the modules on the CPU, copied; keys get the module's name in front if there are several."""
    return {
        (f"{name}.{key}" if len(modules) > 1 else key): tensor.detach().to("cpu", copy=True)
        for name, module in modules.items()
        for key, tensor in module.state_dict().items()
    }


def _evaluate(
    task: "TrainTask", bare: Mapping[str, nn.Module], tables: list[pa.Table], plan: EpochPlan
) -> "_Sums":
    sums = _Sums("val_")
    with with_modules(task, bare), _evaluating(bare):
        for batch in sequential_batches(tables, plan.columns, plan.evaluated_rows):
            sums.add(task.evaluate(batch), len(batch[plan.columns[0]]))
    return sums


@contextmanager
def _evaluating(modules: Mapping[str, nn.Module]) -> Iterator[None]:
    for module in modules.values():
        module.eval()
    try:
        yield
    finally:
        for module in modules.values():
            module.train()


class _Sums:
    """Sums of metrics weighted by rows, to be divided after all processes have given theirs."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.totals: dict[str, tuple[float, int]] = {}

    def add(self, metrics: Mapping[str, float], num_rows: int) -> None:
        for name, value in metrics.items():
            total, rows = self.totals.get(self._prefix + name, (0.0, 0))
            self.totals[self._prefix + name] = total + value * num_rows, rows + num_rows


def _gathered(sums: _Sums) -> list[dict[str, tuple[float, int]]]:
    if num_processes() == 1:
        return [sums.totals]
    parts: list[Any] = [None] * num_processes()
    distributed.all_gather_object(parts, sums.totals)
    return parts


def _means(parts: Iterable[Mapping[str, tuple[float, int]]]) -> Metrics:
    totals: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
    for part in parts:
        for name, pair in part.items():
            totals[name] += pair
    return {name: float(total / rows) for name, (total, rows) in totals.items()}


def _agreed(batches: Iterator[Arrays]) -> Iterator[Arrays]:
    """Yield as many batches as every process has."""
    for batch in batches:
        if not _all_have_one(True):
            return
        yield batch
    _all_have_one(False)


def _all_have_one(mine: bool) -> bool:
    if num_processes() == 1:
        return mine
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    flag = torch.tensor(int(mine), device=device)
    distributed.all_reduce(flag, distributed.ReduceOp.MIN)
    return bool(flag.item())
