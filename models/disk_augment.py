"""Training images of the disk classifier, changed in what a class must not be read off.

Colours, sizes, PSFs and depths of synthetic galaxies are not those of real ones, and a network reads whatever tells
classes apart. Each image gets factors of its own; what is drawn depends on the generator alone.
"""

# B objects, C = 3 bands, S pixels a side of a cutout, N of the centre that the network sees

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.disk_classifier_config import NUM_BANDS, DiskClassifierConfig
from models.disk_images import Views, centre, mixed, turned_at_random
from models.scoring.cutouts import Cutouts

WHOLE = 0.999
"""A pixel that is interpolated is usable if this part of it was."""
REACH = 3.0
"""Of the blurring kernel [sigma]."""


def examples(config: DiskClassifierConfig, whole: Views, rng: np.random.Generator) -> Cutouts:
    """Centres [B, 3, N, N] to learn from, of `models.disk_images.whole_views`, from either image if there are two."""
    science = noisier(config, whole.science, rng) if config.noise_jitter else whole.science
    images = science if whole.denoised is None else mixed(science, whole.denoised, config.denoised_share, rng)
    if config.blur_jitter_pixels:
        images = blurred(images, _uniform(rng, images, 0.0, config.blur_jitter_pixels))
    if config.size_jitter:
        limit = np.log1p(config.size_jitter)
        images = enlarged(images, _uniform(rng, images, -limit, limit).exp(), config.network_pixels)
    else:
        images = centre(config, images)
    if config.colour_jitter:
        scatter = _draw(rng.standard_normal((len(images.science), NUM_BANDS, 1, 1)), images)
        images = images._replace(science=images.science * (config.colour_jitter * scatter).exp())
    return turned_at_random(images, rng) if config.augment else images


def noisier(config: DiskClassifierConfig, images: Cutouts, rng: np.random.Generator) -> Cutouts:
    """Add white noise of up to `noise_jitter` times that of the band, as much to all bands of an image."""
    level = _uniform(rng, images, 0.0, config.noise_jitter)[:, None, None, None]
    sigma = images.science.new_tensor(config.noise_njy).view(-1, 1, 1) * level
    noise = sigma * _draw(rng.standard_normal(images.science.shape, np.float32), images)
    error = (images.error.square() + sigma.square()).sqrt()
    return Cutouts(torch.where(images.usable, images.science + noise, 0), error, images.usable)


def blurred(images: Cutouts, sigma: Tensor) -> Cutouts:
    """Blur each image by a Gaussian of its own; pixels that are not usable count as no light.

    Parameters
    ----------
    images
        [B, C, S, S]; `error` stays as it is.
    sigma
        [B] standard deviation [pixel].
    """
    rows, bands, size = images.science.shape[:3]
    reach = max(1, int(np.ceil(REACH * float(sigma.max()))))
    at = torch.arange(-reach, reach + 1, device=sigma.device)
    kernels = torch.exp(-0.5 * (at / sigma.clamp(min=1e-3)[:, None]).square())
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(bands, 0)[:, None]
    # Every plane is a channel with a kernel of its own.
    planes = images.science.reshape(1, rows * bands, size, size)
    planes = F.conv2d(planes, kernels[:, :, :, None], padding=(reach, 0), groups=rows * bands)
    planes = F.conv2d(planes, kernels[:, :, None, :], padding=(0, reach), groups=rows * bands)
    return images._replace(science=planes.view(rows, bands, size, size))


def enlarged(images: Cutouts, factor: Tensor, pixels: int) -> Cutouts:
    """Cut squares of `pixels` a side around the source's pixel, S // 2, of images enlarged by a factor.

    Bilinear; surface brightness is kept, and what lies beyond the cutout is not usable.

    Parameters
    ----------
    images
        [B, C, S, S].
    factor
        [B] positive; 1 cuts the centre as it is.
    pixels
        N, odd.

    Returns
    -------
    Cutouts
        [B, C, N, N]; `error` is not interpolated: 1 everywhere.
    """
    size = images.science.shape[-1]
    offset = torch.arange(pixels, device=factor.device) - pixels // 2
    at = (2 * (size // 2 + offset / factor[:, None]) + 1) / size - 1
    grid = torch.stack(torch.broadcast_tensors(at[:, None, :], at[:, :, None]), -1)
    science, part = (
        F.grid_sample(plane.float(), grid, align_corners=False) for plane in (images.science, images.usable)
    )
    usable = part >= WHOLE
    return Cutouts(torch.where(usable, science, 0), torch.ones_like(science), usable)


def _uniform(rng: np.random.Generator, images: Cutouts, low: float, high: float) -> Tensor:
    return _draw(rng.uniform(low, high, len(images.science)), images)


def _draw(values: np.ndarray, images: Cutouts) -> Tensor:
    return torch.as_tensor(values, dtype=images.science.dtype, device=images.science.device)
