"""State of a training without Ray, so that the same line goes on after an interruption."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from engine.checkpoint import Checkpoint
from engine.infer import open_model
from models.spec import ModelSpec, TrainTask

log = logging.getLogger("training")


def store(folder: Path, task: TrainTask, num_chunks: int, history: list[dict[str, Any]]) -> None:
    """Write state and history; the rename makes the new state valid at once."""
    folder.mkdir(parents=True, exist_ok=True)
    flat = {f"{p}/{k}": v.contiguous() for p, part in task.state_dict().items() for k, v in part.items()}
    metadata = {"num_chunks": str(num_chunks), "history": json.dumps(history)}
    save_file(flat, folder / "next.safetensors", metadata)
    (folder / "next.safetensors").rename(folder / "state.safetensors")


def restore(folder: Path, task: TrainTask) -> tuple[int, list[dict[str, Any]]]:
    """Load the last state into the task; return how many chunks it has seen, and the history."""
    path = folder / "state.safetensors"
    if not path.exists():
        return 0, []
    nested: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in load_file(path).items():
        part, _, key = name.partition("/")
        nested.setdefault(part, {})[key] = value
    task.load_state_dict(nested)
    with path.open("rb") as file:
        metadata = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
    log.info("going on from %s after %s chunks", path, metadata["num_chunks"])
    return int(metadata["num_chunks"]), json.loads(metadata["history"])


def take_networks(spec: ModelSpec, modules: Mapping[str, torch.nn.Module], checkpoint: Checkpoint) -> None:
    """Give the networks of a task the weights of a checkpoint; of convolutional ones, for any size of image."""
    _, module = open_model(spec, checkpoint, "checkpoint")
    parts = module if isinstance(module, torch.nn.ModuleDict) else dict.fromkeys(modules, module)
    for name, network in modules.items():
        network.load_state_dict(parts[name].state_dict())


def load_rounded(module: torch.nn.Module, trained: torch.nn.Module) -> dict[str, np.ndarray]:
    """Give a module the trained weights as float16 keeps them, and return those."""
    state = {key: value.cpu().half().float() for key, value in trained.state_dict().items()}
    module.load_state_dict(state)
    return {key: value.numpy() for key, value in state.items()}
