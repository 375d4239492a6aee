"""Galaxies without noise at other position angles, each drawn anew: no pixel is interpolated."""

# B galaxies, N pixels a side, G turns

from collections.abc import Sequence

import galsim
import numpy as np
import torch
from torch import nn

from models.disk_classifier_config import DiskClassifierConfig
from models.disk_images import DISK, NO_DISK
from models.scoring.cutouts import Cutouts
from models.scoring.probabilities import sigmoid

PIXEL_ARCSEC = 0.03
PSF_ARCSEC = {"f150w": 0.05, "f277w": 0.092, "f444w": 0.145}
"""FWHM. Round: spikes of a real PSF do not turn with the galaxy, and what they change is not the network's."""
DEGREES = (22.5, 45.0, 90.0)
"""Half way between two elements of the group of 16, and two elements."""

Turn = tuple[float, bool]
"""Degrees, and whether the galaxy is mirrored before."""


def group_turns(rotations: int) -> list[Turn]:
    """Return all elements of the group: `rotations` turns, and as many of the mirror image."""
    return [(360 * step / rotations, mirrored) for mirrored in (False, True) for step in range(rotations)]


def rendered(config: DiskClassifierConfig, num: int, seed: int, turns: Sequence[Turn]) -> Cutouts:
    """Draw galaxies under each turn, one turn after the other: [G * B, 3, N, N]."""
    rng, pixels = np.random.default_rng(seed), config.network_pixels
    galaxies = [galaxy(rng, config.bands) for _ in range(num)]
    flux = np.empty((len(turns), num, len(config.bands), pixels, pixels), np.float32)
    for turn, (degrees, mirrored) in enumerate(turns):
        for row, of_bands in enumerate(galaxies):
            for band, (name, one) in enumerate(zip(config.bands, of_bands, strict=True)):
                sky = one.transform(-1, 0, 0, 1) if mirrored else one
                seen = galsim.Convolve(
                    sky.rotate(degrees * galsim.degrees), galsim.Gaussian(fwhm=PSF_ARCSEC[name])
                )
                flux[turn, row, band] = seen.drawImage(nx=pixels, ny=pixels, scale=PIXEL_ARCSEC).array
    return usable(flux.reshape(-1, *flux.shape[2:]))


def usable(flux: np.ndarray) -> Cutouts:
    """Images [B, 3, N, N] all of whose pixels count, with an error of 1."""
    science = torch.tensor(flux)
    return Cutouts(science, torch.ones_like(science), torch.ones_like(science, dtype=torch.bool))


def galaxy(rng: np.random.Generator, bands: Sequence[str]) -> list[galsim.GSObject]:
    """Draw a bulge, a disk and a clump beside the middle, each of its own colour: the sky in every band [nJy].

    Half-light radii of disks are 0.1 to 0.35 arcsec, axis ratios 0.3 to 0.95, fluxes 200 to 5,000 nJy, bulges up to 9 parts
    in 10; clumps are a twentieth to a fifth.
    """
    radius, ratio, share = rng.uniform(0.1, 0.35), rng.uniform(0.3, 0.95), rng.uniform(0.0, 0.9)
    angle, clump = rng.uniform(0, 180) * galsim.degrees, rng.uniform(0.05, 0.2)
    disk = galsim.Exponential(half_light_radius=radius).shear(q=ratio, beta=angle)
    bulge = galsim.Sersic(2.5, half_light_radius=0.5 * radius).shear(q=np.sqrt(ratio), beta=angle)
    blob = galsim.Gaussian(half_light_radius=0.06).shift(*rng.uniform(-radius, radius, 2))
    parts = ((1 - share) * (1 - clump) * disk, share * (1 - clump) * bulge, clump * blob)
    flux, colours = 10 ** rng.uniform(2.3, 3.7), rng.uniform(0.4, 1.0, (len(bands), len(parts)))
    return [galsim.Sum([flux * c * part for c, part in zip(row, parts, strict=True)]) for row in colours]


def in_parts(module: nn.Module, images: Cutouts, rows: int) -> torch.Tensor:
    """Logits in mini-batches of `rows` images."""
    starts = range(0, len(images.science), rows)
    return torch.cat([module(Cutouts(*(part[start : start + rows] for part in images))) for start in starts])


def log_odds(module: nn.Module, config: DiskClassifierConfig, images: Cutouts) -> np.ndarray:
    """Log odds [G * B] of a disk."""
    with torch.inference_mode():
        logits = in_parts(module, images, config.batch_rows).double()
    return (logits[:, DISK] - logits[:, NO_DISK]).numpy()


def changes(
    module: nn.Module, config: DiskClassifierConfig, num: int, seed: int, temperature: float = 1.0
) -> dict[str, np.ndarray]:
    """By how much log odds and probabilities change when galaxies are turned, and when the group is averaged over.

    Returns
    -------
    dict
        By degrees ("22.5") the changes of log odds and of probabilities [2, B], those of probabilities at the temperature;
        `average` [B]: probability, mean over all elements of the group, minus that of the galaxy as it is.
    """
    group = group_turns(config.rotations)
    turns = list(dict.fromkeys([*group, *((degrees, False) for degrees in DEGREES)]))
    odds = log_odds(module, config, rendered(config, num, seed, turns)).reshape(len(turns), num)
    probability = sigmoid(odds / temperature)
    found = {
        f"{degrees:g}": np.stack([one[turns.index((degrees, False))] - one[0] for one in (odds, probability)])
        for degrees in DEGREES
    }
    return found | {"average": probability[: len(group)].mean(0) - probability[0]}
