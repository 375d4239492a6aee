"""What training tasks of all generators share: networks and their means, optimisers, seeds, state."""

import contextlib
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from models.generators.average import Averaged
from models.generators.config import GeneratorConfig
from models.generators.distances import distance_metrics
from models.generators.images import Seen, training_rows, turned_at_random
from models.spec import Batch
from models.training import (
    choose_bfloat16,
    drawing,
    evaluating,
    optimizer_tensors,
    restore_optimizer,
    to_floats,
    unwrapped,
    worker,
)

log = logging.getLogger(__name__)

PIECE_ROWS = 64
"""Images of a validation batch that go through the networks at once."""
Piece = Callable[[Seen], tuple[Tensor, dict[str, Tensor]]]
"""Real images of a piece to as many generated ones, and metrics."""


class GeneratorTask:
    """Base of the tasks of generators; see `models.spec.TrainTask`. Families add `step` and `evaluate`.

    What is random in step n depends on (seed, n, rank of the process) alone, so a resumed run repeats an
    uninterrupted one, and processes that train together do not draw the same latents. Metrics of `evaluate`
    are of the running mean of the weights, which is what checkpoints keep.

    Parameters
    ----------
    config
        Settings of the family.
    networks
        Networks by name, fresh.
    seed
        Of all that is random in training.
    """

    betas: ClassVar[tuple[float, float]] = (0.9, 0.99)
    """Of Adam."""

    def __init__(self, config: GeneratorConfig, networks: Mapping[str, nn.Module], seed: int) -> None:
        self._shared, self._seed = config, seed
        self.modules: dict[str, nn.Module] = dict(networks)
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.Adam(module.parameters(), config.learning_rate, self.betas)
            for name, module in self.modules.items()
        }
        self._device, self._total_steps, self._autocast = torch.device("cpu"), 1, False

    def start(self, device: torch.device, total_steps: int) -> None:
        """Move to the device and choose the precision."""
        self._device, self._total_steps = device, max(total_steps, 1)
        self._autocast, reason = choose_bfloat16(self._shared.precision, device)
        log.info("training in %s: %s", "bfloat16" if self._autocast else "float32", reason)
        for module in self.modules.values():
            module.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Weights, their means and moments, tensors in nested dicts; schedules follow from the step."""
        weights = {name: unwrapped(module).state_dict() for name, module in self.modules.items()}
        return weights | {f"adam_{name}": optimizer_tensors(o) for name, o in self.optimizers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name, module in self.modules.items():
            unwrapped(module).load_state_dict(state[name])
            restore_optimizer(self.optimizers[name], state[f"adam_{name}"])

    def _seen(self, batch: Batch, step: int) -> Seen:
        """Training images, each under a symmetry of its own."""
        seen = training_rows(self._shared, batch, self._device)
        if not self._shared.augment:
            return seen
        rng = np.random.default_rng([self._seed, step, worker()[0]])
        return seen._replace(images=turned_at_random(seen.images, rng))

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast)

    @contextlib.contextmanager
    def _seeded(self, step: int) -> Iterator[None]:
        """Draw what is random in a step from generators of its own."""
        numbers = np.random.SeedSequence([self._seed, step, worker()[0]]).generate_state(1, np.uint64)
        with drawing(self._device, int(numbers[0] >> np.uint64(1))):
            yield

    @contextlib.contextmanager
    def _evaluating(self, batch: Batch) -> Iterator[None]:
        """Put the networks into evaluation, without gradients; draws depend on the batch alone."""
        content = zlib.crc32(np.asarray(batch[self._shared.image_column], np.float32).tobytes())
        with evaluating(self.modules), torch.no_grad(), drawing(self._device, content):
            yield

    def _evaluated(self, batch: Batch, piece: Piece) -> dict[str, float]:
        """Distance of as many generated images from all of the batch, and means of the metrics of its pieces.

        `PIECE_ROWS` go through the networks at once, but the distance is one of all: of fewer rows it is mostly chance, and
        a mean over pieces is as far above 0 as each of them.
        """
        seen = training_rows(self._shared, batch, self._device)
        made, means = list[Tensor](), dict[str, Tensor]()
        with self._evaluating(batch):
            for images, condition in zip(
                seen.images.split(PIECE_ROWS), seen.condition.split(PIECE_ROWS), strict=True
            ):
                fake, metrics = piece(seen._replace(images=images, condition=condition))
                made.append(fake.float())
                share = len(images) / max(len(seen.images), 1)
                means = {name: means.get(name, 0) + share * value for name, value in metrics.items()}
            return to_floats(means | distance_metrics(seen.images, torch.cat(made)))

    def _update(self, name: str, loss: Tensor, step: int, rate_factor: float = 1.0) -> None:
        """One step of Adam for a network, and of the mean of its weights."""
        optimizer, module = self.optimizers[name], self.modules[name]
        for group in optimizer.param_groups:
            group["lr"] = self._shared.learning_rate * rate_factor
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self._shared.grad_clip_norm:
            nn.utils.clip_grad_norm_(module.parameters(), self._shared.grad_clip_norm)
        optimizer.step()
        inner = unwrapped(module)
        if isinstance(inner, Averaged):
            inner.update(self._shared.ema_decay, step)


@contextlib.contextmanager
def fresh(seed: int) -> Iterator[None]:
    """Draw weights from a seed, and leave the global generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
