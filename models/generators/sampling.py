"""Samples of any generator: latents drawn for each seed by itself, images in their unit.

A sample depends on its own seed, its condition and the checkpoint. Rows go through the network `batch_rows` at
a time and fewer are filled up, each in the place that is its seed modulo `batch_rows`, because kernels may sum rows
at an edge in another order. So the operations are the same whatever a sample is asked for with: on one machine
type, and with the same versions of torch and numpy and as many threads, it is the same bit for bit.
Seeds in a row fill whole batches; seeds that share a place take a batch each.
"""

# N samples, D latents, C channels, S pixels a side, K conditions

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.generators.config import GeneratorConfig
from models.generators.images import (
    Normaliser,
    Seen,
    check_condition,
    scaled_condition,
    training_rows,
    with_conditions,
)
from models.spec import Batch

FITTED_CONDITIONS = "conditions"
MAX_CONDITIONS = 4096
"""Conditions of training images that a checkpoint keeps, to draw from."""

Networks = Callable[[Tensor, Tensor], Tensor]
"""(latent or images, condition [B, K]) to images or latent; all as networks see them."""


@dataclass(frozen=True)
class Family:
    """What a family gives to be sampled from: plain functions over tensors.

    Parameters
    ----------
    num_latent, num_noise
        Numbers drawn from N(0, 1) for each sample: its latent before `mapped`, and noise that the latent does
        not hold.
    mapped
        (draws [B, D], condition) to the latent that is given out; None: they are the latent.
    decode
        (latent, noise [B, num_noise], condition) to stretched images [B, C, S, S].
    encode
        (images, condition) to latent [B, D]; None if the family has no encoder.
    """

    num_latent: int
    num_noise: int
    mapped: Networks | None
    decode: Callable[[Tensor, Tensor, Tensor], Tensor]
    encode: Networks | None


class ImageSampler:
    """Samples of a trained generator; see `models.spec.Sampler`."""

    def __init__(self, config: GeneratorConfig, family: Family, device: torch.device) -> None:
        self._config, self._family, self._device = config, family, device
        self._normaliser = Normaliser(config).to(device)
        self.num_latent = family.num_latent

    def sample(
        self, seeds: np.ndarray, condition: np.ndarray | None = None, latent: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Generate one image for each seed.

        Parameters
        ----------
        seeds
            int64 [N], 0 or positive.
        condition
            [N, K] in their units and within the trained range; None if the generator has none. To draw those
            of training images, see `drawn_conditions`.
        latent
            float32 [N, D]: decode these instead of drawing them. Noise that a latent does not hold is still
            of the seed.

        Returns
        -------
        dict
            float32 `image` [N, C * S * S] in the unit of the training images, and the `latent` [N, D] that it
            is decoded from.

        Raises
        ------
        ValueError
            If a seed is negative, or shapes or conditions are not as above.
        """
        rows = _check_seeds(seeds)
        check_condition(self._config, condition, rows)
        if latent is not None and np.shape(latent) != (rows, self.num_latent):
            raise ValueError(f"latent is {np.shape(latent)}, must be {(rows, self.num_latent)}")
        images = np.empty((rows, self._config.num_pixels), np.float32)
        latents = np.empty((rows, self.num_latent), np.float32)
        for part in _batches(np.asarray(seeds), self._config.batch_rows):
            images[part], latents[part] = self._generate(
                seeds[part],
                None if condition is None else condition[part],
                None if latent is None else latent[part],
            )
        return {"image": images, "latent": latents}

    def encode(self, images: np.ndarray, condition: np.ndarray | None = None) -> np.ndarray:
        """Latents float32 [N, D] of images [N, C * S * S] in their unit.

        Raises
        ------
        TypeError
            If the family has no encoder.
        ValueError
            If an image is constant or has NaN, or a condition is outside of its range.
        """
        encode = self._family.encode
        if encode is None:
            raise TypeError("this generator has no encoder: it goes from latents to images only")
        names = self._config.conditions
        check_condition(self._config, condition, len(images))
        table = dict(zip(names, np.asarray(condition).T, strict=True)) if names else {}
        seen = training_rows(self._config, {self._config.image_column: images} | table, self._device)
        with torch.inference_mode():
            parts = (encode(*part) for part in row_parts(seen, self._config.batch_rows))
            latents = [latent.cpu().numpy() for latent in parts]
        return np.concatenate(latents) if latents else np.zeros((0, self.num_latent), np.float32)

    def _generate(
        self, seeds: np.ndarray, condition: np.ndarray | None, latent: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images and latents of seeds with a place each; places that are left are filled up with the first."""
        rows, size = len(seeds), self._config.batch_rows
        family, filled, place = self._family, np.zeros(size, np.int64), seeds % size
        filled[place] = np.arange(rows)
        drawn = np.stack([_draws(int(seed), family.num_latent + family.num_noise) for seed in seeds])
        told = scaled_condition(self._config, condition, rows, self._device)[filled]
        noise = torch.tensor(drawn[filled, family.num_latent :], device=self._device)
        with torch.inference_mode():
            if latent is not None:
                values = torch.tensor(np.asarray(latent, np.float32)[filled], device=self._device)
            else:
                values = torch.tensor(drawn[filled, : family.num_latent], device=self._device)
                values = family.mapped(values, told) if family.mapped else values
            images = self._normaliser.inverse(family.decode(values, noise, told))
        return images.flatten(1).cpu().numpy()[place], values.cpu().numpy()[place]


def drawn_conditions(fitted: Mapping[str, np.ndarray], seeds: np.ndarray) -> np.ndarray:
    """Conditions [N, K] of training images, one drawn for each seed from those that a checkpoint keeps.

    Parameters
    ----------
    fitted
        What `fit_conditions` gave.
    seeds
        int64 [N]; the draw is of a stream of its own, independent of the latent of the same seed.
    """
    kept = kept_conditions(fitted)
    return kept[[int(np.random.default_rng([int(seed), 1]).integers(len(kept))) for seed in seeds]]


def fit_conditions(config: GeneratorConfig, reference: Iterable[Batch]) -> dict[str, np.ndarray]:
    """Conditions of the first `MAX_CONDITIONS` training images, float32 [n, K]; nothing if there are none."""
    if not config.conditions:
        return {}
    parts, rows = list[np.ndarray](), 0
    for rows_of_all in reference:
        batch = with_conditions(config, rows_of_all)
        parts.append(np.stack([np.asarray(batch[name], np.float32) for name in config.conditions], 1))
        rows += len(parts[-1])
        if rows >= MAX_CONDITIONS:
            break
    if not rows:
        raise ValueError("no training image: a sample of conditions needs at least 1")
    return {FITTED_CONDITIONS: np.concatenate(parts)[:MAX_CONDITIONS]}


def row_parts(seen: Seen, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and conditions, `rows` at a time."""
    yield from zip(seen.images.split(rows), seen.condition.split(rows), strict=True)


def kept_conditions(fitted: Mapping[str, np.ndarray]) -> np.ndarray:
    """Conditions [n, K] that `fit_conditions` gave; ValueError if the checkpoint has none."""
    if FITTED_CONDITIONS not in fitted:
        raise ValueError(f"fitted has no {FITTED_CONDITIONS}: fit the generator again (`ModelSpec.fit`)")
    return fitted[FITTED_CONDITIONS]


def _draws(seed: int, count: int) -> np.ndarray:
    """N(0, 1) float32 [count] of one sample's own generator."""
    return np.random.Generator(np.random.PCG64([seed])).standard_normal(count, np.float32)


def _batches(seeds: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Rows that go through the network together: no two whose seeds have the same place."""
    place = seeds % size
    order = np.argsort(place, kind="stable")
    turn = np.empty(len(seeds), np.int64)
    turn[order] = np.arange(len(seeds)) - np.searchsorted(place[order], place[order])
    for number in range(turn.max(initial=-1) + 1):
        yield np.flatnonzero(turn == number)


def _check_seeds(seeds: np.ndarray) -> int:
    """Count seeds; ValueError if they are not whole numbers from 0, in one dimension."""
    seeds = np.asarray(seeds)
    if seeds.ndim != 1 or not np.issubdtype(seeds.dtype, np.integer):
        raise ValueError(f"seeds are {seeds.dtype} {seeds.shape}, must be integers [N]")
    if len(seeds) and seeds.min() < 0:
        raise ValueError(f"seed {seeds.min()} of row {int(seeds.argmin())} must be 0 or positive")
    return len(seeds)
