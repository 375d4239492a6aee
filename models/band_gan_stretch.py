"""From nJy to what a network sees, and back: asinh in units of the noise, or linear between percentiles."""

import numpy as np
import torch
from torch import Tensor, nn

LIMIT = 18.0
"""Largest asinh value that is turned back: 3e7 times the softening."""


class Stretch(nn.Module):
    """t = asinh((x - offset) / scale) of each band, or t = (x - offset) / scale.

    Parameters
    ----------
    offset_njy, scale_njy
        One value a band [nJy per pixel], in the order of the images' bands.
    is_asinh
        Whether the asinh is taken (Lupton et al. 1999): linear below `scale`, logarithmic above.
    """

    offset: Tensor
    scale: Tensor

    def __init__(self, offset_njy: tuple[float, ...], scale_njy: tuple[float, ...], is_asinh: bool) -> None:
        super().__init__()
        self._is_asinh = is_asinh
        for name, values in (("offset", offset_njy), ("scale", scale_njy)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, flux: Tensor) -> Tensor:
        """Stretch [B, bands, S, S] nJy."""
        linear = (flux - self.offset) / self.scale
        return torch.asinh(linear) if self._is_asinh else linear

    def inverse(self, stretched: Tensor) -> Tensor:
        """Fluxes [nJy] of stretched values."""
        linear = torch.sinh(stretched.clamp(-LIMIT, LIMIT)) if self._is_asinh else stretched
        return linear * self.scale + self.offset

    def slope(self, stretched: Tensor) -> Tensor:
        """Return the derivative of `inverse` [nJy]."""
        if self._is_asinh:
            return torch.cosh(stretched.clamp(-LIMIT, LIMIT)) * self.scale
        return self.scale.expand_as(stretched)


def percentile_bounds(
    flux: np.ndarray, mask: np.ndarray, low: float = 10, high: float = 90
) -> tuple[float, float]:
    """Percentiles of the positive usable pixels of a band: the published normalisation, made consistent.

    Pearce-Casey et al. (2023) find them in a histogram of log10(flux) and apply the logarithms to linear data.
    Percentiles commute with the logarithm, so here they are taken, and applied, in nJy.

    Parameters
    ----------
    flux, mask
        [...] of any one shape; True in `mask` is bad.

    Raises
    ------
    ValueError
        If no pixel is positive.
    """
    positive = flux[~mask & (flux > 0)]
    if not len(positive):
        raise ValueError("no usable pixel is positive")
    lower, upper = np.percentile(positive, [low, high])
    return float(lower), float(upper)
