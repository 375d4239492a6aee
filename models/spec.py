"""What the engine must know of a model, and of its training, and nothing more.

Models are plain torch on one device. The engine wraps the modules for several workers from outside,
feeds batches of numpy arrays, and stores weights, configuration and what was fitted afterwards.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from engine.column import Column

Batch = Mapping[str, np.ndarray]
"""Column name to array; fixed-size lists are [rows, length], strings are object arrays, null is NaN/None."""

Weights = dict[str, np.ndarray]
"""State of a module by name."""


class TrainTask(Protocol):
    """Modules, optimisers and one step: all that a training loop needs.

    `modules` may be replaced by wrapped ones (DDP) before the first step; the task must call the
    entries of `modules` in `step`, never keep references of its own.
    """

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]

    def start(self, device: torch.device, total_steps: int) -> None:
        """Move to the device and set up schedules; called once, before any wrapping."""
        ...

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """Do one optimiser step (forward, backward, update) and return metrics, among them `loss`."""
        ...

    def evaluate(self, batch: Batch) -> dict[str, float]:
        """Metrics of a validation batch, mean per row, without gradient and deterministic."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resume needs, tensors only in nested dicts (modules, optimisers, schedules)."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


Predict = Callable[[Batch], dict[str, np.ndarray]]
"""Arrays in, arrays out, one row each; safe to call twice."""


class Sampler(Protocol):
    """Samples of a generator, in numpy.

    A sample depends on its own seed, its condition and the checkpoint: not on what else is asked for.
    """

    num_latent: int

    def sample(
        self, seeds: np.ndarray, condition: np.ndarray | None = None, latent: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Generate `image` [N, C * S * S] and its `latent` [N, D] for seeds int64 [N], conditions [N, K]."""
        ...

    def encode(self, images: np.ndarray, condition: np.ndarray | None = None) -> np.ndarray:
        """Latents [N, D] of images [N, C * S * S]; TypeError if the generator has no encoder."""
        ...


def nothing_fitted(
    config: Any,  # noqa: ARG001 - the arguments of `ModelSpec.fit`
    module: nn.Module,  # noqa: ARG001
    reference: Iterable[Batch],  # noqa: ARG001
    held_out: Iterable[Batch],  # noqa: ARG001
) -> Weights:
    """`ModelSpec.fit` of a model whose output is not compared with a sample."""
    return {}


@dataclass(frozen=True)
class ModelSpec:
    """A model as the engine sees it.

    Parameters
    ----------
    name, version
        Registry name; `version` changes when weights of old checkpoints no longer fit.
    config
        Frozen dataclass with the model's settings, validated in `__post_init__` (ValueError).
    build
        `config -> module` with fresh weights.
    task
        `(config, seed) -> TrainTask`.
    reads, writes
        `config -> columns` that `predict` takes and gives.
    fit
        `(config, module, reference, held_out) -> arrays`: what scoring needs to know about the
        training sample (neighbour index, percentiles); kept in the checkpoint.
        `reference` and `held_out` are iterables of batches.
    fit_kinds
        `(config, module, fitted, anomalies) -> arrays` beside those of `fit`: how artefacts differ from physical anomalies.
        `anomalies` are batches of spectra that all have one, with `is_artefact`; None if the model does not guess it.
    predictor
        `(config, module, fitted, device) -> Predict`.
    reconstruct
        `(config, module, batch) -> {"recon": [B, L], "sigma": [B, L]}` for reports; None if the
        model has no such thing.
    presets
        Settings by name: what `[model] preset` of a configuration begins with.
    measured, measure
        Names of settings, and `(config, batches of training rows) -> settings` that gives them where a configuration does
        not; None: there are none.
    surveyed, survey_gives, survey
        Names of columns of one number a row (`config -> names`), of settings that they may give, and `(config, batches of them, of all staged rows) ->
        (settings, metrics)`: what is looked at before training, for settings that a single row can break.
        ValueError where one would. None: there are none.
    judged_rows
        Fewest rows of a validation batch of which `evaluate` gives a `loss`, where that is measured on the rows together,
        as a distance between sets; 0: any.
    decode
        `(config, module, latent [B, D]) -> [B, L]`, the mean that the decoder gives; None if latents alone do not say it.
    trains_on
        `config -> columns` that training and `fit` take beside `reads`, such as labels; None if there are none.
    exported
        `(config, weights as trained) -> weights that build(config) takes`, for a network that is trained in
        another form than it predicts in; None if they are the same.
    sampler
        `(config, module, device) -> Sampler` of a generator; None if the model generates nothing.
    sampled_with
        Names of settings that weights do not depend on: a sample may be made with others than the checkpoint has.
    """

    name: str
    version: int
    config: type
    build: Callable[[Any], nn.Module]
    task: Callable[[Any, int], TrainTask]
    reads: Callable[[Any], tuple[Column, ...]]
    writes: Callable[[Any], tuple[Column, ...]]
    fit: Callable[[Any, nn.Module, Iterable[Batch], Iterable[Batch]], dict[str, np.ndarray]]
    predictor: Callable[[Any, nn.Module, Mapping[str, np.ndarray], torch.device], Predict]
    reconstruct: Callable[[Any, nn.Module, Batch], dict[str, np.ndarray]] | None = None
    trains_on: Callable[[Any], tuple[Column, ...]] | None = None
    exported: Callable[[Any, Weights], Weights] | None = None
    sampler: Callable[[Any, nn.Module, torch.device], Sampler] | None = None
    sampled_with: tuple[str, ...] = ()
    decode: Callable[[Any, nn.Module, np.ndarray], np.ndarray] | None = None
    judged_rows: int = 0
    presets: Mapping[str, Any] = field(default_factory=dict)
    measured: tuple[str, ...] = ()
    measure: Callable[[Any, Iterable[Batch]], dict[str, Any]] | None = None
    surveyed: Callable[[Any], tuple[str, ...]] | None = None
    survey_gives: tuple[str, ...] = ()
    survey: Callable[[Any, Iterable[Batch]], tuple[dict[str, Any], dict[str, float]]] | None = None
    fit_kinds: (
        Callable[[Any, nn.Module, Mapping[str, np.ndarray], Iterable[Batch]], dict[str, np.ndarray]] | None
    ) = None

    def learns_from(self, config: Any) -> tuple[Column, ...]:
        """Columns that staged objects must have for training and `fit`."""
        return (*self.reads(config), *(self.trains_on(config) if self.trains_on else ()))

    def to_build(self, config: Any, weights: Weights) -> Weights:
        """Weights that `build(config)` takes, of those as trained."""
        return self.exported(config, weights) if self.exported else weights
