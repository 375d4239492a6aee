"""Where a training run stands, as files: `state.json` and `state.safetensors`. Nothing is pickled."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.errors import CheckpointError

STATE_FILE = "state.safetensors"
PROGRESS_FILE = "state.json"
SEPARATOR = "/"


@dataclass(kw_only=True)
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


@dataclass
class RunState:
    """Progress, the task's own state, and the best weights so far."""

    progress: Progress
    task: dict[str, Any]
    best: dict[str, Tensor]


def save_state(state: RunState, folder: Path) -> None:
    """Write the state into an existing folder."""
    tensors = {f"task{SEPARATOR}{key}": value for key, value in _flat(state.task).items()}
    tensors |= {f"best{SEPARATOR}{key}": value for key, value in state.best.items()}
    # safetensors refuses tensors that share memory (tied weights) and strided ones.
    save_file(
        {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}, folder / STATE_FILE
    )
    (folder / PROGRESS_FILE).write_text(json.dumps(asdict(state.progress)))


def load_state(folder: Path) -> RunState:
    """Read what `save_state` wrote; `CheckpointError` if it is anything else."""
    try:
        progress = TypeAdapter(Progress).validate_json((folder / PROGRESS_FILE).read_bytes())
        tensors = load_file(folder / STATE_FILE)
    except (OSError, ValidationError, SafetensorError) as error:
        raise CheckpointError(
            f"state of a training run cannot be read ({error})",
            str(folder),
            hint="Remove the run's folder to train from the start.",
        ) from error
    parts: dict[str, dict[str, Tensor]] = {"task": {}, "best": {}}
    for key, value in tensors.items():
        part, _, rest = key.partition(SEPARATOR)
        parts.setdefault(part, {})[rest] = value
    return RunState(progress, _nested(parts["task"]), parts["best"])


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
