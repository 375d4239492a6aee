"""Contaminate clean images: galaxies, stars, trails, cosmic-ray hits, edges and noise, with the truth.

After Mirzoyan (2025, arXiv:2506.19434 and arXiv:2511.21207), who put 1 to 3 galaxies and stars on images of
EFIGI, ten times each. Numbers beyond that are ours: the papers give none.
"""

# B = images, C = channels, S = pixels a side

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import correlate1d

from engine.synthetic.contaminate.config import ContaminateConfig
from engine.synthetic.contaminate.marks import Mark, draw_edge, draw_hit, draw_trail
from engine.synthetic.contaminate.optics import Optics
from engine.synthetic.contaminate.sources import Library, Placed, keep_off_px
from engine.synthetic.contaminate.target import Target, half_light_snr, measure_target
from engine.synthetic.field.bands import FloatArray
from engine.synthetic.field.mosaic import add_patch
from engine.synthetic.field.noise import REACH, drizzle_kernel
from engine.synthetic.field.render import STAMP_SIZES

Keys = Sequence[int] | Sequence[str] | np.ndarray


@dataclass(frozen=True, slots=True)
class Contaminant:
    """What was added to one image.

    `kind` is galaxy, star, trail, hit or edge; `channel` the one that has it, -1 all. (`x`, `y`) [pixel] is
    the centre of an object, the start of a hit, and the point of a trail or edge nearest to the middle.
    `flux` [C] is the light within the image, in its unit. `mag_offset` is the magnitude relative to the
    target after dimming, NaN for marks.
    """

    kind: str
    channel: int
    x: float
    y: float
    flux: FloatArray
    mag_offset: float = float("nan")


@dataclass(frozen=True, slots=True)
class Contaminated:
    """Images float32 [B, C, S, S] as they are seen, and the truth.

    `science` is clean + added + noise, `error` its standard deviation; both are 0 where `mask` is True.
    `added` is the light of all contaminants, under the mask too; `contaminants` lists them by image.
    """

    science: FloatArray
    error: FloatArray
    mask: np.ndarray
    clean: FloatArray
    added: FloatArray
    contaminants: tuple[tuple[Contaminant, ...], ...]


class Contaminator:
    """Contaminates images of one kind.

    Parameters
    ----------
    config
        What is added.
    optics
        Of the images.
    """

    def __init__(self, config: ContaminateConfig, optics: Optics) -> None:
        self.config, self.optics = config, optics
        self._library = Library(config, optics)
        self._renderers: dict[int, list] = {}

    def __call__(
        self,
        clean: FloatArray,
        error: FloatArray,
        keys: Keys,
        epoch: int,
        mask: np.ndarray | None = None,
        dx: FloatArray | None = None,
        dy: FloatArray | None = None,
    ) -> Contaminated:
        """Contaminate a batch. What an image gets depends on (seed, key, epoch) and on itself alone.

        Parameters
        ----------
        clean, error
            [B, C, S, S], or [C, S, S] for one image: light without noise, and the standard deviation of the
            noise to come, in one unit (nJy, or [0, 1] for colour images); finite.
        keys
            Identifiers of the images, [B] integers or strings.
        epoch
            Realisation, from 0.
        mask
            Pixels that are not usable to begin with, True = bad; None: all are.
        dx, dy
            [B] centre of the target minus pixel S // 2; None: 0.

        Raises
        ------
        ValueError
            If shapes do not agree, or values are not finite where not masked.
        """
        clean, error, mask = _checked(clean, error, mask, len(keys), len(self.optics.psfs), epoch)
        centres = np.zeros((2, len(clean)))
        for place, given in zip(centres, (dx, dy), strict=True):
            place[:] = 0 if given is None else given
        seen = Contaminated(clean.copy(), error.copy(), mask.copy(), clean, np.zeros_like(clean), ())
        found = [
            self._contaminate(seen, i, centres[:, i], _rng(self.config.seed, epoch, key))
            for i, key in enumerate(keys)
        ]
        return replace(seen, contaminants=tuple(found))

    def _contaminate(
        self, seen: Contaminated, row: int, centre: FloatArray, rng: np.random.Generator
    ) -> tuple[Contaminant, ...]:
        """Contaminate one image in place and tell what was added.

        What is added to an emptied image is as bright and as far away as if its target were there.
        """
        clean, error, mask = seen.clean[row], seen.error[row], seen.mask[row]
        target = measure_target(clean, error, float(centre[0]), float(centre[1]))
        depth = self._depth(clean, error, target, rng)
        if self._is_emptied(rng):
            error[:] = self._without_photons(error, clean)
            clean[:] = 0
        light, found = self._sources(clean.shape, target, rng)
        error[:] = self._with_photons(error * depth, light, depth)
        for kind, channel, mark in self._marks(error, target, rng):
            chosen = slice(None) if channel < 0 else slice(channel, channel + 1)
            light[chosen] += mark.light
            mask[chosen] |= mark.masked
            flux = np.zeros(len(clean), np.float32)
            flux[chosen] = mark.light.sum()
            found.append(Contaminant(kind, channel, mark.x, mark.y, flux))
        seen.added[row] = light
        seen.science[row] = np.where(mask, 0, self._observed(clean + light, error, rng))
        error[mask] = 0
        return tuple(found)

    def _is_emptied(self, rng: np.random.Generator) -> bool:
        """Whether the target is taken away; drawn apart, so that `rng` goes on as without."""
        share = self.config.empty_fraction
        return share > 0 and rng.spawn(1)[0].uniform() < share

    def _observed(self, light: FloatArray, error: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Light with noise, in the range of the images."""
        if self.config.noise == "error":
            light = light + error * self._noise(light.shape, rng)
        return light.clip(0, self.config.saturates_at) if self.config.saturates_at else light

    def _depth(self, clean: FloatArray, error: FloatArray, target: Target, rng: np.random.Generator) -> float:
        """Factor on the error map that gives the target the S/N asked for; 1 if it has no light."""
        if not self.config.snr:
            return 1.0
        wanted = float(np.exp(rng.uniform(np.log(self.config.snr[0]), np.log(self.config.snr[-1]))))
        return (half_light_snr(clean, error, target) or wanted) / wanted

    def _sources(
        self, shape: tuple[int, ...], target: Target, rng: np.random.Generator
    ) -> tuple[FloatArray, list[Contaminant]]:
        """Light [C, S, S] of galaxies and stars, each dimmed where it would outshine the target's centre."""
        total, found = np.zeros(shape, np.float32), []
        placed = self._library.draw(target, shape[-1], rng)
        for one in placed:
            light = self._draw(one, shape)
            here = float(light[target.channel, round(target.y), round(target.x)])
            factor = min(1.0, self.config.max_centre_share * target.centre / len(placed) / max(here, 1e-30))
            light *= np.float32(factor)
            total += light
            offset = one.mag_offset - 2.5 * np.log10(factor)
            found.append(Contaminant(one.source.kind, -1, one.x, one.y, light.sum((1, 2)), float(offset)))
        return total, found

    def _draw(self, placed: Placed, shape: tuple[int, ...]) -> FloatArray:
        light, size = np.zeros(shape, np.float32), shape[-1]
        if size not in self._renderers:
            largest = next((num for num in STAMP_SIZES if num >= 2 * size), STAMP_SIZES[-1])
            self._renderers[size] = self.optics.renderers(largest)
        for channels, renderer in self._renderers[size]:
            stamp = renderer.draw(placed.source)
            part = np.zeros((len(channels), *shape[1:]), np.float32)
            add_patch(part, stamp.light, stamp.x, stamp.y)
            light[channels] = part
        return light

    def _marks(
        self, error: FloatArray, target: Target, rng: np.random.Generator
    ) -> list[tuple[str, int, Mark]]:
        """Trails, hits and edges: kind, channel (-1 all), and the mark."""
        config, (num_channels, size) = self.config, error.shape[:2]
        nearest = keep_off_px(config, target, size)
        sigma = np.median(error, axis=(1, 2)).tolist()
        found: list[tuple[str, int, Mark]] = []
        if rng.uniform() < config.trail_probability:
            channel = int(rng.integers(num_channels))
            found.append(("trail", channel, draw_trail(config, size, nearest, sigma[channel], rng)))
        for channel, num in enumerate(rng.poisson(config.hits_per_channel, num_channels).tolist()):
            hits = (draw_hit(config, size, nearest, sigma[channel], rng) for _ in range(num))
            found.extend(("hit", channel, hit) for hit in hits)
        if rng.uniform() < config.edge_probability:
            found.append(("edge", -1, draw_edge(size, nearest, rng)))
        return found

    def _with_photons(self, error: FloatArray, sky: FloatArray, depth: float) -> FloatArray:
        """Error with the photon noise of contaminants; a `depth` of 2 is a quarter of the exposure."""
        per_flux = depth**2 / np.array(self.optics.electrons, np.float32)[:, None, None]
        if not per_flux.any():
            return error
        return np.sqrt(np.square(error) + np.maximum(sky, 0) * per_flux)

    def _without_photons(self, error: FloatArray, light: FloatArray) -> FloatArray:
        """Error without the photon noise of `light`, but never below the least of the channel."""
        per_flux = 1 / np.array(self.optics.electrons, np.float32)[:, None, None]
        if not per_flux.any():
            return error
        least = np.where(error > 0, error, np.inf).min((1, 2), keepdims=True)
        variance = np.square(error) - np.maximum(light, 0) * per_flux
        return np.minimum(error, np.sqrt(np.maximum(variance, np.square(least))))

    def _noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
        """Noise of unit variance [C, S, S], correlated as drizzled noise where the optics say so."""
        channels, size, _ = shape
        white = rng.standard_normal((channels, size + 2 * REACH, size + 2 * REACH), dtype=np.float32)
        inner = slice(REACH, REACH + size)
        noise = white[:, inner, inner].copy()
        for channel, side in enumerate(self.optics.detector_arcsec):
            if side:
                kernel = drizzle_kernel(side, self.optics.pixel_arcsec)
                along = correlate1d(white[channel], kernel, axis=0)[inner]
                noise[channel] = correlate1d(along, kernel, axis=1)[:, inner]
        return noise


def _rng(seed: int, epoch: int, key: int | str) -> np.random.Generator:
    """Random numbers of one image; keys of any sign, or text."""
    if isinstance(key, str):
        number = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
    else:
        number = int(key) % (1 << 64)
    return np.random.default_rng((seed, epoch, number))


def _checked(
    clean: FloatArray,
    error: FloatArray,
    mask: np.ndarray | None,
    num_keys: int,
    num_channels: int,
    epoch: int,
) -> tuple[FloatArray, FloatArray, np.ndarray]:
    """Images as float32 [B, C, S, S] of agreeing shape, and their mask; 0 where masked."""
    clean, error = (np.array(values, np.float32, ndmin=4) for values in (clean, error))
    mask = np.zeros(clean.shape, bool) if mask is None else np.array(mask, bool, ndmin=4)
    size = clean.shape[-1]
    if clean.shape != (num_keys, num_channels, size, size):
        raise ValueError(
            f"clean is {clean.shape}, must be [B, C, S, S]: B = {num_keys} keys, C = {num_channels} PSFs"
        )
    for name, values in (("error", error), ("mask", mask)):
        if values.shape != clean.shape:
            raise ValueError(f"{name} is {values.shape}, must be {clean.shape} as clean")
    if epoch < 0:
        raise ValueError(f"epoch is {epoch}, must be 0 or more")
    for values in (clean, error):
        values[mask] = 0
    if not (np.isfinite(clean).all() and np.isfinite(error).all() and (error >= 0).all()):
        raise ValueError("clean and error must be finite, and error 0 or more, where mask is False")
    return clean, error, mask
