"""Network that takes blur and noise off images of galaxies: the test bench of augmentation by generated images.

"ResNetV1" of Holzschuh et al. (2022, MNRAS 515, 652, arXiv:2203.11956) and its released code: a convolution to 32
channels, residual blocks, a code of two channels at full resolution, and the mirror of it. Rows hold the image as it is
in truth; the task blurs it and adds noise anew in each step. A model that is applied reads images as observed, with
their blur and noise. Not here: the mixing of real and generated images, which is how it is trained (`engine.train`).
"""

# B images, C channels, S pixels a side

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.column import Column
from engine.flags import NOT_SCORED
from models.restorer_config import PRESETS, RestorerConfig
from models.spec import Batch, ModelSpec, Predict, nothing_fitted
from models.symmetry import NUM_SYMMETRIES, turned
from models.training import optimizer_tensors, restore_optimizer, to_floats, unwrapped, worker

NETWORK = "restorer"
IMAGE = "image"


class ResidualBlock(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, config: RestorerConfig) -> None:
        super().__init__()
        width = config.width
        self.first, self.second = (_convolution(config, width, width) for _ in range(2))
        self._slope = config.negative_slope

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, width, S, S] to the same shape."""
        inner = self.second(functional.leaky_relu(self.first(x), self._slope))
        return functional.leaky_relu(x + inner, self._slope)


class Restorer(nn.Module):
    """Images [B, C, S, S] as observed to images as they would be without blur and noise, in the same unit."""

    def __init__(self, config: RestorerConfig) -> None:
        super().__init__()
        self._scale = config.scale
        self.encoder, self.decoder = (
            nn.Sequential(
                _convolution(config, first, config.width),
                *(ResidualBlock(config) for _ in range(config.blocks)),
                _convolution(config, config.width, last),
            )
            for first, last in (
                (config.num_channels, config.code_channels),
                (config.code_channels, config.num_channels),
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Restore [B, C, S, S]."""
        return self.decoder(self.encoder(images / self._scale)) * self._scale


def _convolution(config: RestorerConfig, inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, config.kernel_px, padding=config.kernel_px // 2)


def blurred(images: Tensor, sigma_px: float, size_px: int) -> Tensor:
    """Convolve [B, C, S, S] with a Gaussian sampled at pixel centres, of sum 1; beyond the edge there is nothing.

    Parameters
    ----------
    images
        In any unit.
    sigma_px
        Standard deviation; 0 leaves the images as they are.
    size_px
        Side of the kernel, odd.
    """
    if not sigma_px:
        return images
    offset = torch.arange(size_px, dtype=images.dtype, device=images.device) - size_px // 2
    profile = torch.exp(-0.5 * (offset / sigma_px) ** 2)
    profile = (profile / profile.sum()).expand(images.shape[1], 1, 1, -1)
    groups, half = images.shape[1], size_px // 2
    along = functional.conv2d(images, profile, padding=(0, half), groups=groups)
    return functional.conv2d(along, profile.transpose(-1, -2), padding=(half, 0), groups=groups)


def observed(config: RestorerConfig, images: Tensor, seed: int) -> Tensor:
    """Images [B, C, S, S] as the task shows them: blurred, with noise of a seed, the same on every device."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    seen = blurred(images, config.psf_sigma_px, config.psf_size_px)
    return seen + config.noise_sigma * noise.to(images.device)


class RestorerTask:
    """Module, optimiser and step of the restorer; see `models.spec.TrainTask`.

    What is random in step n depends on (seed, n, rank of the process) alone, so a resumed run repeats an
    uninterrupted one. Images with pixels that are NaN or infinite are left out.
    """

    def __init__(self, config: RestorerConfig, seed: int) -> None:
        self._config, self._seed, self._device = config, seed, torch.device("cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.modules: dict[str, nn.Module] = {NETWORK: Restorer(config)}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "adam": torch.optim.Adam(self.modules[NETWORK].parameters(), config.learning_rate)
        }

    def start(self, device: torch.device, total_steps: int) -> None:
        """Move to the device; the schedule is of steps alone."""
        del total_steps
        self._device = device
        self.modules[NETWORK].to(device)

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """One step of Adam on the mean squared error, of images turned, blurred and noisy anew."""
        images, usable = _tensors(self._config, batch, self._device)
        rng = np.random.default_rng([self._seed, step, worker()[0]])
        if self._config.augment:
            images = turned(images, int(rng.integers(NUM_SYMMETRIES))).contiguous()
        for group in self.optimizers["adam"].param_groups:
            group["lr"] = self._config.rate(step)
        loss = self._loss(images, usable, int(rng.integers(1 << 62)))
        self.optimizers["adam"].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers["adam"].step()
        return to_floats({"loss": loss})

    def evaluate(self, batch: Batch) -> dict[str, float]:
        """Mean squared error without turns, with noise that depends on the batch alone."""
        images, usable = _tensors(self._config, batch, self._device)
        seed = zlib.crc32(np.asarray(batch[IMAGE], np.float32).tobytes())
        with torch.no_grad():
            return to_floats({"loss": self._loss(images, usable, seed)})

    def state_dict(self) -> dict[str, Any]:
        """Weights and moments, tensors in nested dicts; the schedule follows from the step."""
        weights = unwrapped(self.modules[NETWORK]).state_dict()
        return {NETWORK: weights, "adam": optimizer_tensors(self.optimizers["adam"])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        unwrapped(self.modules[NETWORK]).load_state_dict(state[NETWORK])
        restore_optimizer(self.optimizers["adam"], state["adam"])

    def _loss(self, images: Tensor, usable: Tensor, seed: int) -> Tensor:
        found = self.modules[NETWORK](observed(self._config, images, seed))
        errors = (found - images).square().mean((1, 2, 3))
        return torch.where(usable, errors, 0).sum() / usable.sum().clamp(min=1)


def _tensors(config: RestorerConfig, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images [B, C, S, S] of the leading channels, 0 where a row cannot be used, and which rows can [B]."""
    images = np.asarray(batch[IMAGE], np.float32)
    if images.ndim != 2 or images.shape[1] != config.num_read:
        raise ValueError(
            f"image is {images.shape}, must be [rows, {config.num_read}]: "
            f"{config.image_channels or config.num_channels} channels of {config.size} x {config.size} pixels"
        )
    images = images[:, : config.num_pixels]
    usable = np.isfinite(images).min(axis=1)
    shape = (len(images), config.num_channels, config.size, config.size)
    tensor = torch.tensor(np.where(usable[:, None], images, 0).reshape(shape), device=device)
    return tensor, torch.tensor(usable, device=device)


def _reads(config: RestorerConfig) -> tuple[Column, ...]:
    text = "Image: without blur and noise in training, as observed where it is restored; order channel, y, x"
    return (Column(IMAGE, "float32", text, config.unit, config.num_read, packed=True),)


def _writes(config: RestorerConfig) -> tuple[Column, ...]:
    text = "Image without blur and noise, order channel, y, x"
    return (
        Column("restored", "float32", text, config.unit, config.num_pixels, packed=True),
        Column("restoration_residual", "float32", "Root mean square of image - blurred restored image, in "
               f"noise_sigma = {config.noise_sigma:g}; about 1 where it explains the image"),
    )  # fmt: skip


def _predictor(
    config: RestorerConfig, module: nn.Module, fitted: Mapping[str, np.ndarray], device: torch.device
) -> Predict:
    del fitted
    network = module.to(device).eval()

    def predict(batch: Batch) -> dict[str, np.ndarray]:
        images, usable = _tensors(config, batch, device)
        parts = zip(images.split(config.predict_rows), usable.split(config.predict_rows), strict=True)
        with torch.inference_mode():
            made = [_restored(config, network, *part) for part in parts]
        return {name: np.concatenate([part[name] for part in made]) for name in made[0]}

    return predict


def _restored(
    config: RestorerConfig, network: nn.Module, images: Tensor, usable: Tensor
) -> dict[str, np.ndarray]:
    """Columns of `_writes` and `flags`; NaN where an image cannot be used."""
    found = network(images)
    explained = blurred(found, config.psf_sigma_px, config.psf_size_px)
    residual = (images - explained).square().mean((1, 2, 3)).sqrt() / (config.noise_sigma or 1.0)
    columns = {
        "restored": torch.where(usable[:, None], found.flatten(1), torch.nan),
        "restoration_residual": torch.where(usable, residual, torch.nan),
        "flags": torch.where(usable, 0, NOT_SCORED.value).int(),
    }
    return {name: values.cpu().numpy() for name, values in columns.items()}


SPEC = ModelSpec(
    name="restorer",
    version=1,
    config=RestorerConfig,
    presets=PRESETS,
    build=Restorer,
    task=RestorerTask,
    reads=_reads,
    writes=_writes,
    fit=nothing_fitted,
    predictor=_predictor,
)
