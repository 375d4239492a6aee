"""Distances of features: Frechet and kernel distance, and the seed's Inception where its weights are given.

A Frechet distance is only the FID of the publications with their network and their pictures. Of other features it is
another number in another unit: callers name it after them (`frechet_pooled`), and never set it beside an FID.

References
----------
Heusel et al. (2017), arXiv:1706.08500, Eq. 6: FID. Binkowski et al. (2018), arXiv:1801.01401, Sect. 4: KID.
Holzschuh et al. (2022), MNRAS 515, 652, released code: pictures, 100 subsets of 1,000.
"""

# N, M = real and generated images, F = features, S = pixels a side

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from models.evaluation.wasserstein import MIN_SAMPLES

PICTURE_SIZE = 256
"""Pixels a side of pictures for Inception."""
SUBSETS, SUBSET_ROWS = 100, 1000

Extract = Callable[[np.ndarray], np.ndarray]
"""Pictures uint8 [N, 3, S, S] to features [N, F]."""


def frechet_distance(first: np.ndarray, second: np.ndarray, min_samples: int = MIN_SAMPLES) -> float:
    """Squared Frechet distance of Gaussians with the mean and covariance of features [N, F] and [M, F].

    It grows as samples get fewer: compare sets of equal size only.

    Raises
    ------
    ValueError
        If a set has too few rows, values that are not finite, or features of another length.
    """
    first, second = _checked(first, second, min_samples)
    (mean_a, cov_a), (mean_b, cov_b) = (
        (values.mean(0), np.atleast_2d(np.cov(values, rowvar=False))) for values in (first, second)
    )
    eigenvalues, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(eigenvalues, 0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ cov_b @ root)
    shared = np.sqrt(np.maximum(product, 0)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * shared)


def kernel_distance(
    first: np.ndarray, second: np.ndarray, seed: int = 1, subsets: int = SUBSETS, rows: int = SUBSET_ROWS
) -> float:
    """Squared maximum mean discrepancy with the kernel (x y / F + 1)^3, unbiased, mean over random subsets.

    Parameters
    ----------
    first, second
        Features [N, F] and [M, F].
    seed
        Of the subsets.
    subsets, rows
        How many, and of how many images each, fewer where there are fewer.
    """
    first, second = _checked(first, second, MIN_SAMPLES)
    size, rng = min(rows, len(first), len(second)), np.random.default_rng(seed)
    pairs = (
        [values[rng.choice(len(values), size, replace=False)] for values in (first, second)]
        for _ in range(subsets)
    )
    return float(np.mean([_discrepancy(a, b) for a, b in pairs]))


def _discrepancy(first: np.ndarray, second: np.ndarray) -> float:
    num, scale = len(first), first.shape[1]
    within = [
        (kernel.sum() - np.trace(kernel)) / (num * (num - 1))
        for kernel in ((values @ values.T / scale + 1) ** 3 for values in (first, second))
    ]
    return float(sum(within) - 2 * ((first @ second.T / scale + 1) ** 3).mean())


def _checked(first: np.ndarray, second: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 2 or second.shape[1:] != first.shape[1:]:
        raise ValueError(f"features are {first.shape} and {second.shape}, expected [N, F] and [M, F]")
    for name, values in (("first", first), ("second", second)):
        if len(values) < least:
            raise ValueError(
                f"features of {len(values)} images in the {name} set, at least {least} are needed"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"features of the {name} set are not all finite: leave those images out")
    return first, second


def pictures(images: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Turn images into what the publication shows Inception: uint8 [N, 3, 256, 256].

    Parameters
    ----------
    images
        [N, S, S], each is scaled from its least to its largest value.
    colours
        [256, 3], red, green, blue, 0 to 1: matplotlib's "magma" as published.

    Raises
    ------
    ValueError
        If an image is constant or not finite.
    """
    tensor = torch.from_numpy(np.asarray(images, np.float32))[:, None]
    flat = tensor.flatten(1)
    if not bool((torch.isfinite(flat).all(1) & (flat.amax(1) > flat.amin(1))).all()):
        raise ValueError("an image is constant or not finite: it makes no picture, leave it out")
    size = (PICTURE_SIZE, PICTURE_SIZE)
    resized = functional.interpolate(tensor, size, mode="bilinear", align_corners=False, antialias=True)[:, 0]
    low, high = resized.amin((1, 2), keepdim=True), resized.amax((1, 2), keepdim=True)
    levels = ((resized - low) / (high - low) * 255).round().long().numpy()
    table = (np.asarray(colours) * 255).round().astype(np.uint8)
    return np.moveaxis(table[levels], 3, 1)


def inception(path: str, rows: int = 32) -> Extract:
    """Load the seed's `inception-2015-12-05.pt`, a TorchScript archive, from a path of the user's own.

    Parameters
    ----------
    path
        Of the archive; it is code: run no archive that you do not trust.
    rows
        Pictures that go through it at once.
    """
    network = torch.jit.load(path, map_location="cpu").eval()

    def extract(shown: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            parts = torch.from_numpy(shown).split(rows)
            return torch.cat([network(part, return_features=True) for part in parts]).double().numpy()

    return extract
