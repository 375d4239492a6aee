"""What a generator says of an image that it is given: its latent, and how far the decoded latent is off."""

# B images, D latents

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.column import Column
from engine.flags import NOT_SCORED
from models.generators.average import exported
from models.generators.config import GeneratorConfig
from models.generators.distances import MIN_ROWS
from models.generators.images import STRETCH, columns_read, predicted_rows, stretch_settings
from models.generators.ranges import RANGE, survey
from models.generators.sampling import Family, ImageSampler, fit_conditions, kept_conditions, row_parts
from models.spec import Batch, ModelSpec, Predict, TrainTask


def encoder_columns(num_latent: int, latent: str, error: str) -> tuple[Column, ...]:
    """Columns of a predictor that encodes.

    Parameters
    ----------
    latent, error
        What the latent is, and what the error means for the family.
    """
    text = "Root mean square of image - decoded latent, in standard deviations of stretched training pixels; "
    return (
        Column("latent", "float32", latent, "", num_latent, packed=True),
        Column("reconstruction_error", "float32", text + error),
    )


def encoder_spec(
    name: str,
    config: type[GeneratorConfig],
    build: Callable[[Any], nn.Module],
    task: Callable[[Any, int], TrainTask],
    writes: Callable[[Any], tuple[Column, ...]],
    family: Callable[[Any, nn.Module], Family],
    presets: Mapping[str, GeneratorConfig],
    version: int = 1,
) -> ModelSpec:
    """Specify a generator that encodes: `writes` as `encoder_columns`, `family` of (config, module on its device)."""

    def fit(
        settings: Any,
        module: nn.Module,  # noqa: ARG001 - conditions are those of the images, whatever the network
        reference: Iterable[Batch],
        held_out: Iterable[Batch],  # noqa: ARG001
    ) -> dict[str, np.ndarray]:
        return fit_conditions(settings, reference)

    def predictor(
        settings: Any, module: nn.Module, fitted: Mapping[str, np.ndarray], device: torch.device
    ) -> Predict:
        return encoding_predictor(settings, family(settings, module.to(device)), fitted, device)

    def sampler(settings: Any, module: nn.Module, device: torch.device) -> ImageSampler:
        return ImageSampler(settings, family(settings, module.to(device)), device)

    return ModelSpec(
        name=name, version=version, config=config, build=build, task=task, reads=columns_read, writes=writes, fit=fit,
        predictor=predictor, exported=exported, sampler=sampler, judged_rows=MIN_ROWS, presets=presets,
        measured=STRETCH, measure=stretch_settings,
        surveyed=attrgetter("conditions"), survey_gives=RANGE, survey=survey,
    )  # fmt: skip


def encoding_predictor(
    config: GeneratorConfig, family: Family, fitted: Mapping[str, np.ndarray], device: torch.device
) -> Predict:
    """Predict `latent` and `reconstruction_error`; NaN and NOT_SCORED where an image or condition is bad."""
    if config.conditions:
        kept_conditions(fitted)

    def predict(batch: Batch) -> dict[str, np.ndarray]:
        seen = predicted_rows(config, batch, device)
        with torch.inference_mode():
            parts = [_encoded(family, *part) for part in row_parts(seen, config.batch_rows)]
            latent, error = (torch.cat(values) for values in zip(*parts, strict=True))
        usable = seen.usable
        return {
            "latent": torch.where(usable[:, None], latent, torch.nan).cpu().numpy(),
            "reconstruction_error": torch.where(usable, error, torch.nan).cpu().numpy(),
            "flags": not_scored(usable),
        }

    return predict


def not_scored(usable: Tensor) -> np.ndarray:
    """Give flags int32 [B]."""
    return torch.where(usable, 0, NOT_SCORED.value).int().cpu().numpy()


def _encoded(family: Family, images: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
    """Latents [B, D] and errors [B]."""
    if family.encode is None:
        raise TypeError("this generator has no encoder: it goes from latents to images only")
    latent = family.encode(images, condition)
    noise = images.new_zeros(len(images), family.num_noise)
    difference = images - family.decode(latent, noise, condition)
    return latent, difference.square().mean((1, 2, 3)).sqrt()
