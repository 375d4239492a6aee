"""Flow matching for galaxy images: a velocity field that carries noise to images along nearly straight lines.

Lipman et al. (2023, arXiv:2210.02747) and Liu et al. (2023, arXiv:2209.03003): x(t) = (1 - t) noise + t image, and
the network learns the mean of image - noise given x(t), or of the image, from which it follows. The differential
equation is solved in few steps, and runs backwards from an image to its noise, which is the latent.
"""

# B images, C channels, S pixels a side, D = C S^2 latents, K conditions

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from engine.column import Column
from models.generators.average import Averaged
from models.generators.encoding import encoder_columns, encoder_spec
from models.generators.flow_config import PRESETS, ImageFlowConfig
from models.generators.flow_networks import FlowNetwork
from models.generators.images import Seen, bright_weights
from models.generators.sampling import Family
from models.generators.solver import Velocity, integrated, step_times
from models.generators.task import GeneratorTask, fresh
from models.spec import Batch
from models.training import to_floats, unwrapped, warmup_cosine

NETWORK = "flow"


class ImageFlowTask(GeneratorTask):
    """Network, optimiser and step of the flow; see `models.generators.task.GeneratorTask`."""

    def __init__(self, config: ImageFlowConfig, seed: int) -> None:
        with fresh(seed):
            networks = {NETWORK: Averaged(FlowNetwork(config))}
        super().__init__(config, networks, seed)
        self._config = config

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """One step of Adam on the squared error of velocities, at times drawn for each image.

        Also where the network predicts the image (Li & He 2025, arXiv:2511.13720, Eq. 6).
        """
        seen = self._seen(batch, step)
        with self._seeded(step):
            noise = torch.randn(seen.images.shape, device=self._device)
            time = self._times(len(noise))
        loss = self._loss(seen, noise, time)
        fraction = self._config.learning_rate_warmup_fraction
        self._update(NETWORK, loss, step, warmup_cosine(step, self._total_steps, fraction))
        return to_floats({"loss": loss})

    def evaluate(self, batch: Batch) -> dict[str, float]:
        """Distances of generated images from those of the batch, and the error of velocities.

        `loss` is the distance (`models.generators.distances`) of images drawn in `monitor_steps`. `velocity` is the
        error at times spread evenly over [0, 1]: it grows on held-out images where the network begins to memorise.
        All draws depend on the batch alone.
        """
        return self._evaluated(batch, self._judged)

    def _judged(self, seen: Seen) -> tuple[Tensor, dict[str, Tensor]]:
        rows = len(seen.images)
        noise = torch.randn(seen.images.shape, device=self._device)
        time = (torch.arange(rows, device=self._device) + 0.5) / max(rows, 1)
        metrics = {"velocity": self._loss(seen, noise, time)}
        start, times = (
            torch.randn_like(noise),
            step_times(self._config.monitor_steps or self._config.steps, self._config.time_power),
        )
        with self._precision():
            network = velocity_of(self._config, unwrapped(self.modules[NETWORK]), seen.condition)
            return integrated(network, start, times), metrics

    def _loss(self, seen: Seen, noise: Tensor, time: Tensor) -> Tensor:
        mixed = torch.lerp(noise, seen.images, time[:, None, None, None])
        with self._precision():
            found = self.modules[NETWORK](mixed, time, seen.condition)
        if self._config.prediction == "velocity":
            return (found - (seen.images - noise)).square().mean()
        gap = (1 - time).clamp(min=self._config.least_gap)[:, None, None, None]
        return self._weighted((found - seen.images) / gap, found)

    def _times(self, rows: int) -> Tensor:
        """Draw times [B] to train: most of a logit-normal distribution, others late."""
        logit, late, place = torch.randn(rows), torch.rand(rows), torch.rand(rows)
        usual = (self._config.time_mean + self._config.time_scale * logit).sigmoid()
        low, high = (math.log(gap) for gap in self._config.late_gaps)
        gap = (low + (high - low) * place).exp()
        return torch.where(late < self._config.late_fraction, 1 - gap, usual).to(self._device)

    def _weighted(self, error: Tensor, found: Tensor) -> Tensor:
        """Mean square of errors, those of pixels that are predicted bright weighted more."""
        return (error.square() * bright_weights(found, self._config.peak_weight)).mean()


def velocity_of(config: ImageFlowConfig, network: nn.Module, condition: Tensor) -> Velocity:
    """Give the velocity that a network says. At time 1 it is the image: the mean of its noise is 0."""

    def velocity(x: Tensor, time: float) -> Tensor:
        if time == 1:
            return x
        found = network(x, x.new_full((len(x),), time), condition)
        return found if config.prediction == "velocity" else (found - x) / (1 - time)

    return velocity


def _network(module: nn.Module) -> FlowNetwork:
    inner = unwrapped(module)
    if not isinstance(inner, FlowNetwork):
        raise TypeError(f"module is a {type(inner).__name__}, expected FlowNetwork")
    return inner.eval()


def _family(config: ImageFlowConfig, module: nn.Module) -> Family:
    """Family whose latent is the noise."""
    network, times = _network(module), step_times(config.steps, config.time_power)
    shape = (-1, config.num_channels, config.size, config.size)

    def decode(latent: Tensor, noise: Tensor, condition: Tensor) -> Tensor:
        del noise
        return integrated(velocity_of(config, network, condition), latent.view(shape), times)

    def encode(images: Tensor, condition: Tensor) -> Tensor:
        return integrated(velocity_of(config, network, condition), images, times[::-1]).flatten(1)

    return Family(config.num_pixels, 0, None, decode, encode)


def _writes(config: ImageFlowConfig) -> tuple[Column, ...]:
    text = "Noise that the flow carries to the image, order channel, y, x"
    error = "error of the solver on the way back and forth, small for images like the training set"
    return encoder_columns(config.num_pixels, text, error)


SPEC = replace(
    encoder_spec("image_flow", ImageFlowConfig, FlowNetwork, ImageFlowTask, _writes, _family, PRESETS),
    sampled_with=("steps",),
)
