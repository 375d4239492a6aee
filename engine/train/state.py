"""Where a training run stands: `states/000003/` holds its state after three epochs. Nothing is pickled.

`state.safetensors` is written first and `state.json` last: a state exists when its JSON does, so a run that is
killed at any moment finds the newest whole one. (Ray 2.60 records states in a file that it overwrites in
place, and up to 2 s late.)
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from engine.errors import CheckpointError, EngineError, StorageError
from engine.storage import Storage

STATE_FILE = "state.safetensors"
PROGRESS_FILE = "state.json"
SEPARATOR = "/"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a run has done.

    Parameters
    ----------
    epoch, step
        Those that come next.
    best_loss, best_epoch
        Smallest loss that was monitored and its epoch, from 1.
    epochs_without_gain
        Since the best, or since the last gain of more than `min_delta`.
    stopped
        Why no further epoch follows although some are left; empty if none of that.
    history
        Metrics of each epoch.
    step_losses
        Loss of each step of process 0.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    epoch: int = 0
    step: int = 0
    best_loss: float | None = None
    best_epoch: int = 0
    epochs_without_gain: int = 0
    stopped: str = ""
    history: list[dict[str, float]] = field(default_factory=list)
    step_losses: list[float] = field(default_factory=list)

    def after_epoch(
        self,
        metrics: Mapping[str, float],
        next_step: int,
        step_losses: Sequence[float],
        patience: int,
        min_delta: float,
    ) -> "Progress":
        """Progress with one epoch more, and with the reason to stop if there is one.

        The loss that is monitored is `val_loss`, or `train_loss` where nothing is held out. `EngineError` if
        validation gave metrics but no loss: the training loss may say something else, as that of a GAN does.

        Parameters
        ----------
        metrics
            Of the epoch; all workers have the same and so decide the same.
        next_step
            First step of the next epoch.
        step_losses
            Loss of each step of the epoch.
        patience
            Stop after so many epochs in a row without gain; 0: never.
        min_delta
            Smallest decrease of the loss that counts as gain. The best epoch is the one of the
            smallest loss all the same.
        """
        epoch = self.epoch + 1
        done = replace(
            self,
            epoch=epoch,
            step=next_step,
            history=[*self.history, {"epoch": float(epoch), "step": float(next_step), **metrics}],
            step_losses=[*self.step_losses, *step_losses],
        )
        loss = _monitored(metrics)
        if not math.isfinite(loss):
            return replace(done, stopped=f"loss is {loss} in epoch {epoch}")
        return done._compared(loss, patience, min_delta)

    def _compared(self, loss: float, patience: int, min_delta: float) -> "Progress":
        best = math.inf if self.best_loss is None else self.best_loss
        without = 0 if loss < best - min_delta else self.epochs_without_gain + 1
        done = replace(self, epochs_without_gain=without)
        if loss < best:
            done = replace(done, best_loss=loss, best_epoch=self.epoch)
        if patience and without >= patience:
            done = replace(done, stopped=f"no gain in {without} epochs")
        return done

    def is_finished(self, epochs: int) -> bool:
        """Whether no epoch follows, of so many at most."""
        return self.epoch >= epochs or bool(self.stopped)

    def best_metrics(self, where: str) -> dict[str, float]:
        """Metrics of the best epoch of the run `where`; `EngineError` if no epoch had a finite loss."""
        if not self.best_epoch:
            raise EngineError(
                "training diverged: the loss was never finite",
                where,
                hint="Lower the learning rate, or look for bad values in the staged objects.",
            )
        return self.history[self.best_epoch - 1]


def _monitored(metrics: Mapping[str, float]) -> float:
    if "val_loss" not in metrics and any(name.startswith("val_") for name in metrics):
        raise EngineError(
            "validation rows gave no loss to choose the best epoch by",
            "train.validation_fraction",
            got=", ".join(name for name in metrics if name.startswith("val_")),
            expected="val_loss",
            hint="Too few of them can be used together: raise it, or take conditions that are known of more objects.",
        )
    return metrics.get("val_loss", metrics.get("train_loss", math.nan))


@dataclass
class RunState:
    """Progress, the task's own state, and the best weights so far."""

    progress: Progress
    task: dict[str, Any]
    best: dict[str, Tensor]


def save_state(state: RunState, run_uri: str, storage: Storage, num_to_keep: int) -> None:
    """Store the state of a run, then remove all but the newest `num_to_keep`."""
    tensors = {f"task{SEPARATOR}{key}": value for key, value in _flat(state.task).items()}
    tensors |= {f"best{SEPARATOR}{key}": value for key, value in state.best.items()}
    # safetensors refuses tensors that share memory (tied weights) and strided ones.
    data = save({k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()})
    folder = _folder(run_uri, state.progress.epoch)
    storage.put(storage.join(folder, STATE_FILE), data)
    storage.put(storage.join(folder, PROGRESS_FILE), json.dumps(asdict(state.progress)).encode())
    for number in stored_epochs(run_uri, storage)[:-num_to_keep]:
        for name in (PROGRESS_FILE, STATE_FILE):
            storage.delete(storage.join(_folder(run_uri, number), name))


def stored_epochs(run_uri: str, storage: Storage) -> list[int]:
    """Numbers of the epochs after which a whole state is stored, in their order."""
    found = storage.list(storage.join(run_uri, "states"), PROGRESS_FILE)
    return sorted(int(file.uri.split("/")[-2]) for file in found)


def load_progress(run_uri: str, storage: Storage, epoch: int) -> Progress:
    """Read the progress alone that was stored after an epoch; `CheckpointError` if it is anything else."""
    folder = _folder(run_uri, epoch)
    with _unreadable_is_said(folder):
        return TypeAdapter(Progress).validate_json(storage.read(storage.join(folder, PROGRESS_FILE)))


def load_state(run_uri: str, storage: Storage, epoch: int) -> RunState:
    """Read what `save_state` wrote after an epoch; `CheckpointError` if it is anything else."""
    progress = load_progress(run_uri, storage, epoch)
    folder = _folder(run_uri, epoch)
    with _unreadable_is_said(folder):
        tensors = load(storage.read(storage.join(folder, STATE_FILE)))
    parts: dict[str, dict[str, Tensor]] = {"task": {}, "best": {}}
    for key, value in tensors.items():
        part, _, rest = key.partition(SEPARATOR)
        parts.setdefault(part, {})[rest] = value
    return RunState(progress, _nested(parts["task"]), parts["best"])


def _folder(run_uri: str, epoch: int) -> str:
    return Storage.join(run_uri, "states", f"{epoch:06d}")


@contextmanager
def _unreadable_is_said(folder: str) -> Iterator[None]:
    try:
        yield
    except (StorageError, ValidationError, SafetensorError) as error:
        raise CheckpointError(
            f"state of a training run cannot be read ({error})",
            folder,
            hint="Remove the folder to go on from an earlier state, or from the start.",
        ) from error


def _flat(tree: Mapping[str, Any]) -> dict[str, Tensor]:
    leaves: dict[str, Tensor] = {}
    for key, value in tree.items():
        if SEPARATOR in key:
            raise ValueError(f"state key {key!r} holds {SEPARATOR!r}")
        if isinstance(value, Mapping):
            leaves |= {f"{key}{SEPARATOR}{rest}": leaf for rest, leaf in _flat(value).items()}
        elif isinstance(value, Tensor):
            leaves[key] = value
        else:
            raise TypeError(f"state_dict holds a {type(value).__name__} at {key!r}, expected tensors only")
    return leaves


def _nested(leaves: Mapping[str, Tensor]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split(SEPARATOR)
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def to_numpy(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Tensors as arrays, floating point as float32."""
    return {
        name: (tensor.float() if torch.is_floating_point(tensor) else tensor).numpy()
        for name, tensor in tensors.items()
    }
