"""What a denoiser makes of stamps without a target: of noise alone, and of neighbours around an empty middle."""

# B images, C bands, S pixels a side

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.training_cutouts import Batch
from engine.images.bands import BANDS
from engine.synthetic.contaminate.config import ContaminateConfig
from engine.synthetic.contaminate.optics import nircam_optics
from engine.synthetic.contaminate.simulate import Contaminator
from engine.synthetic.contaminate.target import radii
from models.scoring.aperture import aperture_weights
from models.scoring.denoising import false_structure

Clean = Callable[[Batch], np.ndarray]
"""From a batch to images [B, C, S, S]."""
RADIUS_ARCSEC = 0.3
TARGET_NJY, TARGET_PX = 300.0, 5.0
"""Flux in each band (25.2 mag) and width of the Gaussian that neighbours are drawn for and that is taken away."""


def stamps(size: int, seed: int, num: int, neighbours: int) -> Batch:
    """Make images [num, C * S * S] of noise as in CEERS and up to so many galaxies and stars, without a target."""
    optics, shape = nircam_optics(), (num, len(BANDS), size, size)
    config = ContaminateConfig(
        seed=seed, empty_fraction=1.0, min_sources=min(neighbours, 1), max_sources=neighbours,
        trail_probability=0, edge_probability=0, hits_per_channel=0,
    )  # fmt: skip
    light = np.exp(-0.5 * (radii(size, size // 2, size // 2) / TARGET_PX) ** 2)
    target = np.broadcast_to(light * TARGET_NJY / light.sum(), shape)
    error = np.broadcast_to(np.array(optics.rms, np.float32)[:, None, None], shape)
    out = Contaminator(config, optics)(target, error, range(num), 0)
    zero = np.zeros(num, np.float32)
    flat = {name: getattr(out, name).reshape(num, -1) for name in ("science", "error", "mask")}
    return flat | {"dx": zero, "dy": zero, "pixel_scale": zero + np.float32(optics.pixel_arcsec)}


def from_noise(clean: Clean, size: int, seed: int, num: int = 64) -> dict[str, float]:
    """Flux over its error, mean and standard deviation, and peaks a band, in cleaned stamps of pure noise."""
    batch = stamps(size, seed, num, 0)
    made = false_structure(torch.tensor(clean(batch)), _planes(batch["error"], size))
    return {
        "flux_mean": float(made.flux_sigma.mean()),
        "flux_std": float(made.flux_sigma.std()),
        "peaks": float(made.peaks.float().mean()),
    }


def from_neighbours(clean: Clean, size: int, seed: int, num: int = 64) -> dict[str, float]:
    """Flux in the empty middle of stamps with one to three neighbours, before and after, and peaks a band.

    Fluxes are in the error of the aperture (independent pixels), over all bands: `centre_seen` and `centre_left`
    are means, `centre_worst` is the 95th percentile of what is left.
    """
    batch = stamps(size, seed, num, 3)
    image, error = torch.tensor(clean(batch)), _planes(batch["error"], size)
    seen, left = (_in_centre(planes, error, batch) for planes in (_planes(batch["science"], size), image))
    return {
        "centre_seen": float(seen.mean()),
        "centre_left": float(left.mean()),
        "centre_worst": float(left.quantile(0.95)),
        "peaks": float(false_structure(image, error).peaks.float().mean()),
    }


def report(noise: dict[str, dict[str, float]], neighbours: dict[str, dict[str, float]]) -> None:
    """Print both, a line for each method."""
    print(f"\n{'pure noise':16}{'flux mean':>12}{'std (sigma)':>13}{'peaks > 3 sigma a band':>25}")
    for name, row in noise.items():
        print(f"{name:16}{row['flux_mean']:+12.3f}{row['flux_std']:13.3f}{row['peaks']:25.2f}")
    print(
        f"\n{'neighbours only':16}{'centre, seen':>14}{'left (sigma)':>14}{'95 %':>8}{'peaks > 3 sigma a band':>25}"
    )
    for name, row in neighbours.items():
        print(f"{name:16}{row['centre_seen']:+14.2f}{row['centre_left']:+14.2f}{row['centre_worst']:+8.2f}"
              f"{row['peaks']:25.2f}")  # fmt: skip


def _planes(flat: np.ndarray, size: int) -> torch.Tensor:
    return torch.tensor(flat).view(-1, len(BANDS), size, size)


def _in_centre(image: torch.Tensor, error: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Flux of `RADIUS_ARCSEC` in its error, [B, C]."""
    dx, dy, scale = (torch.tensor(batch[name]) for name in ("dx", "dy", "pixel_scale"))
    weights = aperture_weights(image.shape[-1], dx, dy, RADIUS_ARCSEC / scale)[:, None]
    return (weights * image).sum((2, 3)) / (weights * error.square()).sum((2, 3)).sqrt()
