"""Image cutouts in six NIRCam bands as a model and its scores take them: columns, and tensors from a batch.

Images are in nJy a pixel on one pixel grid, short-wavelength (SW) bands first; a model predicts the
long-wavelength (LW) ones from them.
"""

# B objects, S pixels a side

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.column import Column
from engine.images import bands
from engine.images.bands import BANDS, LONG_BANDS, SHORT_BANDS
from models.spec import Batch

SW, LW = slice(0, len(SHORT_BANDS)), slice(len(SHORT_BANDS), len(BANDS))
LW_BANDS = LONG_BANDS
PIVOT_UM = tuple(bands.PIVOT_UM[band] for band in BANDS)
"""Pivot wavelengths [um]."""


def cutout_input(size: int, num_bands: int = len(BANDS)) -> tuple[Column, ...]:
    """Columns of cutouts of `size` pixels a side; flat arrays in the order band, y, x."""
    pixels = num_bands * size * size
    return (
        Column(
            "science", "float32", "Flux density of each pixel, order band, y, x", "nJy", pixels, packed=True
        ),
        Column(
            "error", "float32", "Standard deviation of science, 0 where masked", "nJy", pixels, packed=True
        ),
        Column("mask", "bool", "True where a pixel is not usable", length=pixels, packed=True),
        Column("dx", "float32", "Source minus pixel size // 2 along x", "pixel"),
        Column("dy", "float32", "Source minus pixel size // 2 along y", "pixel"),
        Column("pixel_scale", "float32", "Side of a pixel", "arcsec"),
    )


def denoised_column(size: int, num_bands: int = len(BANDS)) -> Column:
    """Column of cutouts without noise and neighbours: what a denoiser writes and a classifier may read."""
    text = "Flux of each pixel without noise and neighbours, order band, y, x"
    return Column("denoised", "float32", text, "nJy", num_bands * size * size, packed=True)


class Cutouts(NamedTuple):
    """Tensors [B, bands, S, S]: science and error [nJy], finite everywhere, and where they can be used.

    Where not usable, science is 0 and error is 1.
    """

    science: Tensor
    error: Tensor
    usable: Tensor

    def bands(self, chosen: slice) -> "Cutouts":
        """Return some of the bands."""
        return Cutouts(self.science[:, chosen], self.error[:, chosen], self.usable[:, chosen])


def cutouts(batch: Batch, size: int, device: torch.device, num_bands: int = len(BANDS)) -> Cutouts:
    """Tensors from the columns of `cutout_input`.

    A pixel is usable if it is not masked, science is finite, and error is finite and positive.

    Raises
    ------
    ValueError
        If the columns are of another length than `size` asks for.
    """
    length = num_bands * size * size
    if batch["science"].shape[1:] != (length,):
        raise ValueError(
            f"science is {batch['science'].shape}, must be [rows, {length}]: {size} pixels a side"
        )
    # A copy: the arrays are read-only views of Arrow memory, which torch may not share.
    science, error = (
        torch.tensor(np.asarray(batch[n], np.float32), device=device) for n in ("science", "error")
    )
    usable = ~torch.tensor(np.asarray(batch["mask"], bool), device=device)
    usable &= torch.isfinite(science) & torch.isfinite(error) & (error > 0)
    science, error = torch.where(usable, science, 0), torch.where(usable, error, 1)
    shape = (-1, num_bands, size, size)
    return Cutouts(science.view(shape), error.view(shape), usable.view(shape))
