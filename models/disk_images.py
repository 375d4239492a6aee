"""What the disk classifier takes of an object: the centre of three bands, its class, its signal to noise.

The centre is cut before anything turns it: a cutout of an even number of pixels has its source beside its
middle.
"""

# B objects, S pixels a side of a cutout, N pixels a side of the centre

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.column import Column
from engine.images.columns import LABEL, UNKNOWN_LABEL
from models.disk_classifier_config import DiskClassifierConfig
from models.scoring.aperture import apertures, photometry, places
from models.scoring.cutouts import Cutouts, cutout_input, cutouts, denoised_column
from models.scoring.size import half_light_radius, is_truncated
from models.spec import Batch
from models.symmetry import NUM_SYMMETRIES, turned

NO_DISK, DISK, UNKNOWN = 0, 1, UNKNOWN_LABEL


def classifier_input(config: DiskClassifierConfig) -> tuple[Column, ...]:
    """Columns that a prediction needs."""
    columns = cutout_input(config.size)
    return (*columns, denoised_column(config.size)) if config.use_denoised else columns


class Views(NamedTuple):
    """Images of a batch.

    Parameters
    ----------
    science
        As measured, [B, 3, N, N].
    denoised
        Without noise, or None if there is no such column.
    snr
        [B] signal to noise of the aperture flux in the reddest band.
    half_light
        [B] half-light radius of the judged image in the reddest band [arcsec].
    is_truncated
        [B] whether that image's light reaches beyond the cutout.
    is_observed
        [B] whether enough of the aperture is usable in all three bands.
    """

    science: Cutouts
    denoised: Cutouts | None
    snr: Tensor
    half_light: Tensor
    is_truncated: Tensor
    is_observed: Tensor

    @property
    def judged(self) -> Cutouts:
        """The images that `prob_disk` is of: denoised where there are any."""
        return self.science if self.denoised is None else self.denoised


def views(config: DiskClassifierConfig, batch: Batch, device: torch.device) -> Views:
    """Images of a batch.

    Raises
    ------
    ValueError
        If a column is of another length than the configured size asks for, or the aperture is larger than the
        cutout.
    """
    whole = whole_views(config, batch, device)
    denoised = None if whole.denoised is None else centre(config, whole.denoised)
    return whole._replace(science=centre(config, whole.science), denoised=denoised)


def whole_views(config: DiskClassifierConfig, batch: Batch, device: torch.device) -> Views:
    """Return the same of the cutouts as they are, of S pixels a side; raises as `views` does."""
    images = cutouts(batch, config.size, device)
    weights = apertures(config.aperture_radius_arcsec, batch, images)
    science = Cutouts(*(part[:, list(config.band_indices)] for part in images))
    measured = photometry(science, weights)
    is_observed = (measured.fraction >= config.min_aperture_fraction).all(1)
    denoised = _denoised(config, batch, device) if config.use_denoised else None
    judged = (science if denoised is None else denoised).science[:, -1]
    dx, dy, scale = places(batch, device)
    radius = half_light_radius(judged, dx, dy)
    snr = measured.flux[:, -1] / measured.error[:, -1]
    return Views(science, denoised, snr, radius * scale, is_truncated(radius, config.size), is_observed)


def _denoised(config: DiskClassifierConfig, batch: Batch, device: torch.device) -> Cutouts:
    # Its noise is not known and not asked for: an error that is positive makes every finite pixel usable.
    shape = batch["science"].shape
    clean = cutouts(
        {"science": batch["denoised"], "error": np.ones(shape, np.float32), "mask": np.zeros(shape, bool)},
        config.size, device,
    )  # fmt: skip
    return Cutouts(*(part[:, list(config.band_indices)] for part in clean))


def classes(batch: Batch, views: Views) -> Tensor:
    """Class of each object, [B] int64; `UNKNOWN` as well where it was not observed.

    Raises
    ------
    ValueError
        If `label` holds anything but the three values.
    """
    label = np.asarray(batch[LABEL.name])
    known = (NO_DISK, DISK, UNKNOWN)
    strange = [value for value in set(label.tolist()) if value not in known]
    if strange:
        raise ValueError(
            f"label holds {strange[0]}, must be {DISK} (disk), {NO_DISK} (not) or {UNKNOWN} (unknown)"
        )
    found = torch.tensor(label.astype(np.int64), device=views.is_observed.device)
    return torch.where(views.is_observed, found, UNKNOWN)


def turned_at_random(images: Cutouts, rng: np.random.Generator) -> Cutouts:
    """Turn or flip each object by one of the 8 symmetries of the square."""
    elements = rng.integers(NUM_SYMMETRIES, size=len(images.science))
    parts = []
    for part in images:
        result = part.clone()
        for element in range(1, NUM_SYMMETRIES):
            rows = torch.tensor(elements == element, device=part.device)
            result[rows] = turned(part[rows], element)
        parts.append(result)
    return Cutouts(*parts)


def mixed(first: Cutouts, second: Cutouts, share: float, rng: np.random.Generator) -> Cutouts:
    """Take each object from one of two sets of images, at random: a `share` of them from the second."""
    takes_first = torch.tensor(rng.random(len(first.science)) < 1 - share, device=first.science.device)
    takes_first = takes_first[:, None, None, None]
    return Cutouts(*(torch.where(takes_first, a, b) for a, b in zip(first, second, strict=True)))


def centre(config: DiskClassifierConfig, images: Cutouts) -> Cutouts:
    """Cut the square of odd size whose middle is the source's pixel, `size // 2`."""
    first = config.size // 2 - config.network_pixels // 2
    window = slice(first, first + config.network_pixels)
    return Cutouts(*(part[:, :, window, window] for part in images))
