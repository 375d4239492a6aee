"""How far generated images are from real ones, cheaply: the loss by which checkpoints are chosen.

Two parts, both of one-dimensional Wasserstein distances in standard deviations of the real values, so that they
can be added: sliced ones of pooled pixels (shape, place, brightness), and those of the radial power spectrum
(structure at all scales). Of finite samples neither is 0 for equal distributions: compare values of equal rows
only. Not a measure to publish: that is by morphology, on many more images.
"""

# N images, C channels, S pixels a side, P projections, R radial bins

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_ROWS = 8
"""Fewest images that are compared with as many generated ones."""
NUM_PROJECTIONS = 128
POOLED_PIXELS = 16
"""Pixels a side at most, of the images that are projected."""
LEAST_STD = 1e-3
"""Least standard deviation that distances are divided by; images are stretched to a variance of 1."""
LEAST_POWER = 1e-10
"""Added to the power, of images of variance 1: below it there is rounding."""


def distance_metrics(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """Metrics of an epoch: `loss` is the distance of generated from real images.

    The losses that generators are trained by choose no epoch: adversarial ones say who is ahead, an ELBO says
    nothing of the prior, the error of a flow is mostly that of times at which nothing is decided. Distances grow
    as rows get fewer (two real Sersic sets are 0.48 apart by 64 images, 0.33 by 128, 0.16 by 512; a good generator is at 0.56 by 64), and a mean over
    batches is as far off as each: take all rows at once, and compare epochs with as many. Nothing where there are fewer than
    `MIN_ROWS`, as in the last batch of an epoch: too few for a spread that distances could be divided by.
    """
    if len(real) < MIN_ROWS:
        return {}
    found = image_distance(real, fake)
    return {"loss": found["distance"], "distance_pixels": found["pixels"], "distance_power": found["power"]}


def image_distance(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """Distances of stretched images [N, C, S, S]: `pixels`, `power`, and their sum `distance`; scalars."""
    pixels, power = pooled_distance(real, fake), power_distance(real, fake)
    return {"distance": pixels + power, "pixels": pixels, "power": power}


def pooled_distance(real: Tensor, fake: Tensor, seed: int = 0) -> Tensor:
    """Sliced Wasserstein distance of images pooled to at most 16 pixels a side [standard deviations].

    Rabin et al. (2012), with projections whose directions are the same for a seed.
    """
    pooled = [F.adaptive_avg_pool2d(x, min(POOLED_PIXELS, x.shape[-1])).flatten(1) for x in (real, fake)]
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(pooled[0].shape[1], NUM_PROJECTIONS, generator=generator)
    directions = (directions / directions.norm(dim=0)).to(real)
    return standardised_distance(*(x @ directions for x in pooled))


def power_distance(real: Tensor, fake: Tensor) -> Tensor:
    """Wasserstein distance of log10 of the radial power in each bin, mean over bins [standard deviations]."""
    return standardised_distance(*(radial_log_power(x).flatten(1) for x in (real, fake)))


def standardised_distance(real: Tensor, fake: Tensor) -> Tensor:
    """Mean over columns of the Wasserstein distances of [N, P], in standard deviations of the real values."""
    return (wasserstein(real, fake) / real.std(0, unbiased=False).clamp(min=LEAST_STD)).mean()


def wasserstein(first: Tensor, second: Tensor) -> Tensor:
    """1-Wasserstein distance of the columns of [N, P] and [N, P]: mean difference of sorted values, [P].

    Peyre & Cuturi (2019, arXiv:1803.00567), Eq. 2.30 for samples of equal number.
    """
    if first.shape != second.shape:
        raise ValueError(f"samples are {tuple(first.shape)} and {tuple(second.shape)}, must have one shape")
    return (first.sort(0).values - second.sort(0).values).abs().mean(0)


def radial_log_power(images: Tensor) -> Tensor:
    """log10 of the azimuthal mean of |FFT|^2 / S^4, [N, C, S / 2], in bins of one cycle from 1 to S / 2."""
    size = images.shape[-1]
    power = torch.fft.fft2(images.float()).abs().square() / size**4
    cycles = torch.fft.fftfreq(size, 1 / size, device=images.device)
    bins = torch.hypot(cycles[:, None], cycles[None, :]).round().long().flatten()
    inside = (bins >= 1) & (bins <= size // 2)
    weights = F.one_hot(bins[inside] - 1, size // 2).to(power)
    mean = power.flatten(2)[..., inside] @ (weights / weights.sum(0))
    return (mean + LEAST_POWER).log10()
