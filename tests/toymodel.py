"""A second model, as small as can be: linear regression with momentum. Deterministic, of one step a line."""

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.column import Column
from models.spec import Batch, ModelSpec, Predict


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    length: int = 4
    learning_rate: float = 0.05
    widths: tuple[int, ...] = ()
    kill_at_step: int = -1
    """Step at which the worker kills itself, if `kill_marker` is not there yet."""
    kill_marker: str = ""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length is {self.length}, must be at least 1")


class ToyTask:
    """Fit `y = flux . w` by stochastic gradient descent."""

    def __init__(self, config: ToyConfig, seed: int) -> None:
        self._config = config
        self.modules: dict[str, nn.Module] = {"linear": build(config, seed)}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "sgd": torch.optim.SGD(self.modules["linear"].parameters(), config.learning_rate, momentum=0.9)
        }

    def start(self, device: torch.device, total_steps: int) -> None:
        self.modules["linear"].to(device)

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        if step == self._config.kill_at_step and not Path(self._config.kill_marker).exists():
            Path(self._config.kill_marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        loss = self._loss(batch)
        self.optimizers["sgd"].zero_grad()
        loss.backward()
        self.optimizers["sgd"].step()
        return {"loss": loss.item()}

    def evaluate(self, batch: Batch) -> dict[str, float]:
        with torch.no_grad():
            return {"loss": self._loss(batch).item()}

    def state_dict(self) -> dict[str, Any]:
        state = self.optimizers["sgd"].state_dict()["state"]
        momentum = {str(index): entry["momentum_buffer"] for index, entry in state.items()}
        return {"linear": self.modules["linear"].state_dict(), "momentum": momentum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.modules["linear"].load_state_dict(state["linear"])
        optimizer = self.optimizers["sgd"]
        entries = {int(index): {"momentum_buffer": value} for index, value in state["momentum"].items()}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})

    def _loss(self, batch: Batch) -> torch.Tensor:
        predicted = self.modules["linear"](torch.tensor(batch["flux"]))[:, 0]
        return (predicted - torch.tensor(batch["y"])).square().mean()


def build(config: ToyConfig, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(config.length, 1)


def _predictor(
    config: ToyConfig, module: nn.Module, fitted: Mapping[str, np.ndarray], device: torch.device
) -> Predict:
    def predict(batch: Batch) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            y = module(torch.tensor(batch["flux"], device=device))[:, 0].cpu().numpy()
        return {
            "score": y - fitted["mean_y"],
            "pair": np.stack([y, -y], axis=1),
            "flags": np.where(y > 0, 1 << 16, 0),
        }

    return predict


def _fit(config, module, reference, held_out) -> dict[str, np.ndarray]:
    reference, held_out = list(reference), list(held_out)
    return {
        "mean_y": np.mean(np.concatenate([batch["y"] for batch in reference])),
        "num_reference": np.array(sum(len(batch["y"]) for batch in reference)),
        "num_held_out": np.array(sum(len(batch["y"]) for batch in held_out)),
    }


SPEC = ModelSpec(
    name="toy",
    version=1,
    config=ToyConfig,
    build=build,
    task=ToyTask,
    reads=lambda config: (Column("flux", "float32", "Input", length=config.length),),
    writes=lambda config: (
        Column("score", "float32", "Prediction less the mean of y"),
        Column("pair", "float32", "Prediction and its negative", length=2),
    ),
    fit=_fit,
    predictor=_predictor,
    trains_on=lambda _: (Column("y", "float32", "What is to be predicted"),),
)
