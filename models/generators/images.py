"""Images and conditions of a batch as a generator sees them: checked, stretched, as tensors; and back."""

# B images, C channels, S pixels a side, K conditions

import logging
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from engine.column import Column
from models.generators.config import GeneratorConfig
from models.generators.ranges import condition_table, is_outside, limits, told_ranges
from models.spec import Batch
from models.symmetry import NUM_SYMMETRIES, turned

log = logging.getLogger(__name__)

BRIGHTEST = 5.0
"""Standard deviations above the mean from which on weights grow no more."""
STRETCH = ("stretched_mean", "stretched_std")
"""Settings that follow from the training set."""
LARGEST_ASINH = 30.0
"""Largest asinh that is turned back: 5e12 times the softening."""


class Seen(NamedTuple):
    """Stretched images [B, C, S, S], conditions scaled to [-1, 1] [B, K], and which rows can be used [B]."""

    images: Tensor
    condition: Tensor
    usable: Tensor


def columns_read(config: GeneratorConfig) -> tuple[Column, ...]:
    """Images [C * S * S], order channel, y, x, and one column for each condition."""
    text = "Image, order channel, y, x"
    ranges = told_ranges(config).items()
    return (
        Column(config.image_column, "float32", text, config.unit, config.num_pixels, packed=True),
        *(Column(n, "float64", f"Condition of the generator{told}") for n, told in ranges),
    )


class Normaliser(nn.Module):
    """Between the unit of an image and what networks see: (stretch(image / softening) - mean) / std."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self._softening, self._is_asinh = config.softening, config.stretch == "asinh"
        for name, values in (("mean", config.stretched_mean), ("std", config.stretched_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Stretch and standardise [B, C, S, S]."""
        scaled = images / self._softening
        return ((scaled.asinh() if self._is_asinh else scaled) - self.mean) / self.std

    def inverse(self, values: Tensor) -> Tensor:
        """Images [B, C, S, S] in their unit, of what `forward` gives."""
        stretched = values * self.std + self.mean
        if self._is_asinh:
            stretched = stretched.clamp(-LARGEST_ASINH, LARGEST_ASINH).sinh()
        return stretched * self._softening


def measured_stretch(
    config: GeneratorConfig, images: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of stretched pixels, for `stretched_mean` and `stretched_std`.

    Parameters
    ----------
    config
        Its `stretch` and `softening` are taken.
    images
        [B, C * S * S], training images in their unit.
    """
    scaled = np.asarray(images, np.float64).reshape(len(images), config.num_channels, -1) / config.softening
    values = np.arcsinh(scaled) if config.stretch == "asinh" else scaled
    mean, std = values.mean((0, 2)), values.std((0, 2))
    return tuple(map(float, mean)), tuple(map(float, std))


def stretch_settings(config: GeneratorConfig, batches: Iterable[Batch]) -> dict[str, tuple[float, ...]]:
    """Measure `STRETCH` on batches of training rows, to five digits; images that are not finite do not count.

    Raises
    ------
    ValueError
        If there is no image to measure.
    """
    parts = [_pixels(config, batch) for batch in batches]
    images = [part[~_has_nan(part)] for part in parts]
    found = [(len(part), *measured_stretch(config, part)) for part in images if len(part)]
    if not found:
        raise ValueError("no finite image to measure stretched_mean and stretched_std of")
    rows, means, stds = (np.array(values) for values in zip(*found, strict=True))
    mean, square = (np.average(values, 0, rows) for values in (means, stds**2 + means**2))
    values = (mean, np.sqrt(square - mean**2))
    return {n: tuple(float(f"{v:.5g}") for v in one) for n, one in zip(STRETCH, values, strict=True)}


def training_rows(config: GeneratorConfig, batch: Batch, device: torch.device) -> Seen:
    """Images and conditions of a batch of which every row must be good; rows without a condition are left out.

    Raises
    ------
    ValueError
        If an image has NaN or infinite values or is constant, or a condition is outside of its range; the
        message names the row, of those that are left. If no row has all conditions.
    """
    batch = with_conditions(config, batch)
    images = _pixels(config, batch)
    faults = {"holds NaN or infinite values": _has_nan(images), "is constant": _is_constant(images)}
    for what, rows in faults.items():
        if rows.any():
            row = int(rows.argmax())
            raise ValueError(
                f"image of row {row} {what} ({int(rows.sum())} of {len(rows)} rows), must be finite and vary: "
                "leave such images out of the training set"
            )
    condition = condition_table(config, batch) if config.conditions else None
    check_condition(config, condition, len(images))
    return _seen(config, images, condition, np.ones(len(images), bool), device)


def with_conditions(config: GeneratorConfig, batch: Batch) -> Batch:
    """Leave out rows of which a condition is null, and count them for the log: they cannot be learned from under it.

    A `label` is null where staged cutouts have -1, no class (`engine.images.columns`).

    Raises
    ------
    ValueError
        If no row is left.
    """
    if not config.conditions:
        return batch
    is_known = np.asarray(~np.isnan(condition_table(config, batch)).any(1))
    if is_known.all():
        return batch
    num = int((~is_known).sum())
    if num == len(is_known):
        names = ", ".join(config.conditions)
        raise ValueError(
            f"none of {num} rows has all of {names}: take conditions that are known of more rows, or larger batches"
        )
    log.debug("left out %d of %d rows of a batch: a condition is null", num, len(is_known))
    return {name: np.asarray(values)[is_known] for name, values in batch.items()}


def predicted_rows(config: GeneratorConfig, batch: Batch, device: torch.device) -> Seen:
    """Images and conditions of a batch; what cannot be used becomes 0 and is not `usable`."""
    images = _pixels(config, batch)
    condition = condition_table(config, batch)
    usable = ~_has_nan(images) & ~_is_constant(images) & ~is_outside(config, condition).any(1)
    images = np.where(usable[:, None, None], images, 0)
    condition = np.where(usable[:, None], condition, limits(config)[0])
    return _seen(config, images, condition, usable, device)


def check_condition(config: GeneratorConfig, condition: np.ndarray | None, rows: int) -> None:
    """Refuse conditions that are missing, of another shape, or outside of the range that was trained.

    Parameters
    ----------
    condition
        [rows, K] in their units, order as `config.conditions`; None if K is 0.

    Raises
    ------
    ValueError
        With the name of the condition, the row, the value and the range.
    """
    names = config.conditions
    shape = (rows, 0) if condition is None else np.shape(condition)
    if shape != (rows, len(names)):
        wanted = (
            f"one column each for {', '.join(names)}" if names else "None: the generator has no condition"
        )
        raise ValueError(f"condition is {shape}, must be {(rows, len(names))}: {wanted}")
    if condition is None:
        return
    outside = is_outside(config, condition)
    if outside.any():
        row, column = (int(index) for index in np.argwhere(outside)[0])
        low, high = (values[column] for values in limits(config))
        raise ValueError(
            f"condition {names[column]} of row {row} is {condition[row, column]:g}, must be in the trained "
            f"range [{low:g}, {high:g}]"
        )


def scaled_condition(
    config: GeneratorConfig, condition: np.ndarray | None, rows: int, device: torch.device
) -> Tensor:
    """Conditions [B, K] from their ranges to [-1, 1]."""
    if condition is None or not config.conditions:
        return torch.zeros(rows, 0, device=device)
    low, high = limits(config)
    scaled = 2 * (np.asarray(condition, np.float64) - low) / (high - low) - 1
    return torch.tensor(scaled.astype(np.float32), device=device)


def bright_weights(found: Tensor, exponent: float) -> Tensor:
    """Weights of squared errors that grow with what is predicted for a pixel: exp(exponent x prediction).

    Their mean is 1 for pixels of N(0, 1); not that of a batch, or images would weigh by what they are beside.
    Under asinh they are brightness to a power. Cores are few pixels of many, and half as bright they cost a squared
    error little; in brightness they make the power at all small scales, concentration and Gini. As a function of the
    prediction, without gradient, a weight leaves the mean of an image its best prediction.

    Parameters
    ----------
    found
        Predicted stretched images of any shape, in standard deviations of training pixels.
    exponent
        0: all weights are 1.
    """
    return (exponent * found.detach().clamp(max=BRIGHTEST) - 0.5 * exponent**2).exp()


def turned_at_random(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Turn or flip each image [B, C, S, S] by one of the 8 symmetries of the square."""
    elements = rng.integers(NUM_SYMMETRIES, size=len(images))
    return torch.stack([turned(image, int(n)) for image, n in zip(images, elements, strict=True)])


def _pixels(config: GeneratorConfig, batch: Batch) -> np.ndarray:
    """Images [B, C, S * S]."""
    images = np.asarray(batch[config.image_column], np.float32)
    if images.ndim != 2 or images.shape[1] != config.num_pixels:
        raise ValueError(
            f"image is {images.shape}, must be [rows, {config.num_pixels}]: {config.num_channels} channels of "
            f"{config.size} x {config.size} pixels; all images of a generator have one size"
        )
    return images.reshape(len(images), config.num_channels, config.size**2)


def _has_nan(images: np.ndarray) -> np.ndarray:
    return np.logical_not(np.isfinite(images)).max((1, 2))


def _is_constant(images: np.ndarray) -> np.ndarray:
    """Whether no channel varies; one that does not is fine, it may hold a number of the object."""
    return (images.max(2) == images.min(2)).all(1)


def _seen(
    config: GeneratorConfig,
    images: np.ndarray,
    condition: np.ndarray | None,
    usable: np.ndarray,
    device: torch.device,
) -> Seen:
    shape = (len(images), config.num_channels, config.size, config.size)
    tensor = torch.tensor(images.reshape(shape), device=device)
    stretched = Normaliser(config).to(device)(tensor)
    scaled = scaled_condition(config, condition, len(images), device)
    return Seen(stretched, scaled, torch.tensor(usable, device=device))
