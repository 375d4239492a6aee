"""Disk or not: a network that respects rotations and reflections, with calibrated probabilities.

After Mirzoyan (2025, arXiv:2506.19434 and arXiv:2511.21207), who classifies galaxies by a network that is
equivariant under "D16", before and after denoising. Ours has the same group, three NIRCam bands, a brightness
that is divided out, and a temperature that makes probabilities honest. Training needs escnn, prediction does
not. Not here: how probabilities are calibrated (`models.disk_scores`).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import disk_scores
from models.disk_adaptation import Domains
from models.disk_augment import examples
from models.disk_classifier_config import PRESETS, DiskClassifierConfig
from models.disk_export import exported
from models.disk_images import (
    DISK,
    LABEL,
    NO_DISK,
    UNKNOWN,
    classes,
    classifier_input,
    views,
    whole_views,
)
from models.disk_networks import DiskNetwork
from models.scoring.cutouts import Cutouts
from models.scoring.probabilities import auroc
from models.spec import Batch, ModelSpec
from models.training import (
    evaluating,
    optimizer_tensors,
    restore_optimizer,
    seeded,
    to_floats,
    unwrapped,
    warmup_cosine,
)

NETWORK = "network"


class DiskClassifierTask:
    """Network, optimiser and step of the disk classifier; see `models.spec.TrainTask`.

    What is random in step n depends on (seed, n) alone, so a resumed run repeats an uninterrupted one.
    Computes in float32: filters are expanded from their basis in each step, and would lose their symmetry in
    less.
    """

    def __init__(self, config: DiskClassifierConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = trainable(config)
        self.modules: dict[str, nn.Module] = {NETWORK: network}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            NETWORK: torch.optim.AdamW(
                network.parameters(), config.learning_rate, weight_decay=config.weight_decay
            )
        }
        self._device, self._total_steps = torch.device("cpu"), 1
        self._domains = Domains()

    def start(self, device: torch.device, total_steps: int) -> None:
        """Move to the device and lay out the schedule."""
        self._device, self._total_steps = device, max(total_steps, 1)
        self.modules[NETWORK].to(device)

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """One step of AdamW on the cross-entropy with smoothed labels; without a label the gradient is 0."""
        warmup = self._config.learning_rate_warmup_fraction
        for group in self.optimizers[NETWORK].param_groups:
            group["lr"] = self._config.learning_rate * warmup_cosine(step, self._total_steps, warmup)
        images, labels, observed = self._examples(batch, step)
        with seeded(self._device, self._seed, step):
            logits, features = self._judged(images)
        known = (labels != UNKNOWN).sum().clamp(min=1)
        smoothing = self._config.label_smoothing
        loss = F.cross_entropy(
            logits, labels, ignore_index=UNKNOWN, reduction="sum", label_smoothing=smoothing
        )
        loss = loss / known
        metrics = {"loss": loss, "accuracy": (logits.argmax(1) == labels).sum() / known}
        if features is not None:
            metrics["divergence"] = self._domains.divergence(features, labels != UNKNOWN, observed)
            metrics["loss"] = loss + self._adaptation_weight(step) * metrics["divergence"]
        self._update(metrics["loss"])
        return to_floats(metrics)

    def evaluate(self, batch: Batch) -> dict[str, float]:
        """Metrics without augmentation, dropout and smoothing, over objects of known class.

        `auroc` is left out where the batch has one class only, and all metrics where it has none.
        """
        seen = views(self._config, batch, self._device)
        labels = classes(batch, seen)
        with torch.no_grad(), evaluating(self.modules):
            logits = self.modules[NETWORK](seen.judged)
        known = labels != UNKNOWN
        if not known.any():
            return {}
        logits, labels = logits[known], labels[known]
        accuracy = (logits.argmax(1) == labels).float().mean()
        metrics = to_floats({"loss": F.cross_entropy(logits, labels), "accuracy": accuracy})
        area = auroc((logits[:, DISK] - logits[:, NO_DISK]).cpu().numpy(), labels.cpu().numpy())
        return metrics if np.isnan(area) else metrics | {"auroc": area}

    def state_dict(self) -> dict[str, Any]:
        """Weights and moments, tensors in nested dicts; the schedule follows from the step."""
        weights = unwrapped(self.modules[NETWORK]).state_dict()
        state = {NETWORK: weights, "adamw": optimizer_tensors(self.optimizers[NETWORK])}
        return state | ({"domains": self._domains.state_dict()} if self._config.adaptation_weight else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        unwrapped(self.modules[NETWORK]).load_state_dict(state[NETWORK])
        restore_optimizer(self.optimizers[NETWORK], state["adamw"])
        self._domains.load_state_dict(state.get("domains", {}))

    def _examples(self, batch: Batch, step: int) -> tuple[Cutouts, Tensor, Tensor]:
        """Images, augmented and from either column if there are two, classes, and whether they were observed."""
        rng = np.random.default_rng([self._seed, step])
        whole = whole_views(self._config, batch, self._device)
        return examples(self._config, whole, rng), classes(batch, whole), whole.is_observed

    def _judged(self, images: Cutouts) -> tuple[Tensor, Tensor | None]:
        """Logits, and the features if domains are to be compared."""
        if self._config.adaptation_weight:
            return self.modules[NETWORK](images, with_features=True)
        return self.modules[NETWORK](images), None

    def _adaptation_weight(self, step: int) -> float:
        is_warm = step >= self._config.adaptation_warmup_fraction * self._total_steps
        return self._config.adaptation_weight * is_warm

    def _update(self, loss: Tensor) -> None:
        self.optimizers[NETWORK].zero_grad(set_to_none=True)
        loss.backward()
        if self._config.grad_clip_norm:
            nn.utils.clip_grad_norm_(self.modules[NETWORK].parameters(), self._config.grad_clip_norm)
        self.optimizers[NETWORK].step()


def trainable(config: DiskClassifierConfig) -> nn.Module:
    """Build the network that is trained: with escnn for the group, with batch normalisation for both."""
    if config.architecture == "plain":
        return DiskNetwork(config, normalised=True)
    # Here, because escnn takes seconds to import, and prediction never needs it.
    from models.disk_equivariant import EquivariantNetwork

    return EquivariantNetwork(config)


SPEC = ModelSpec(
    name="disk_classifier",
    version=1,
    config=DiskClassifierConfig,
    presets=PRESETS,
    build=DiskNetwork,
    task=DiskClassifierTask,
    reads=classifier_input,
    writes=disk_scores.columns,
    fit=disk_scores.fit,
    predictor=disk_scores.predictor,
    trains_on=lambda _: (LABEL,),
    exported=exported,
)
