"""The renderer of `sersic_render` for a batch, in torch on any device: training images without a release.

It draws the same points of the same pixels. In float64 it equals the numpy renderer to the float32 rounding of its
result (1e-7); in float32 to 1e-5 of each pixel but where rounding gives a pixel one point a side more or fewer, of
which there are less than one in a thousand, then to 1e-2. `tests/numerics/test_sersic.py` holds it to that.
"""

# B = images, S = pixels a side, P = pixels of one level, s = points a side of a pixel

import numpy as np
import torch
from torch import Tensor

from engine.synthetic.sersic_render import (
    EXPOSURE_S,
    MOST_POINTS,
    RANGES,
    SIZE,
    TOTAL,
    SersicParameters,
    check_parameters,
    points,
    sersic_b,
)

MOST_VALUES = 1 << 24
"""Points that are evaluated at once: about 0.5 GB of float32 at the peak."""


def draw_parameters(num: int, generator: torch.Generator) -> Tensor:
    """Draw `num` galaxies: float64 [num, 6] on the generator's device, columns and ranges those of `RANGES`."""
    low, high = torch.tensor(list(RANGES.values()), dtype=torch.float64, device=generator.device).T
    uniform = torch.rand(num, len(RANGES), generator=generator, dtype=torch.float64, device=generator.device)
    return low + (high - low) * uniform


def render_batch(parameters: Tensor, size: int = SIZE, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw galaxies on the device of their parameters.

    Parameters
    ----------
    parameters
        [B, 6], columns those of `SersicParameters`.
    size
        Pixels a side of the field of 10.24 arcsec.
    dtype
        float32 or float64: of the arithmetic and the result.

    Returns
    -------
    torch.Tensor
        [B, size, size] as `engine.synthetic.sersic_render.render`.

    Raises
    ------
    ValueError
        If the shape is another, or a radius, index or axis ratio is not positive.
    """
    if parameters.ndim != 2 or parameters.shape[1] != len(RANGES):
        raise ValueError(f"parameters have shape {tuple(parameters.shape)}, expected [B, {len(RANGES)}]")
    check_parameters(SersicParameters(*parameters.detach().cpu().numpy().T))
    profiles = _Profiles(parameters.to(dtype))
    place = _points(size, 1, parameters.device, dtype)[:, 0]
    every = torch.arange(len(parameters), device=parameters.device)[:, None, None]
    images = profiles.brightness(every, place, place[:, None])
    level = _levels(images)
    for num in range(2, MOST_POINTS + 1):
        place = _points(size, num, parameters.device, dtype)
        for which in torch.nonzero(level == num).split(MOST_VALUES // num**2):
            batch, rows, columns = which.T
            values = profiles.brightness(batch[:, None, None], place[columns, None, :], place[rows, :, None])
            images[batch, rows, columns] = values.mean(dim=(1, 2))
    return images * EXPOSURE_S


def _points(size: int, num: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(points(size, num)).to(device, dtype)


def _levels(images: Tensor) -> Tensor:
    """Points a side of the pixels of images [B, S, S]; see `sersic_render.levels`."""
    share = images.sqrt()
    return (MOST_POINTS * share / share.amax(dim=(1, 2), keepdim=True)).ceil().clamp(1, MOST_POINTS).long()


class _Profiles:
    """Galaxies [B], of which those of a point are chosen by index."""

    def __init__(self, parameters: Tensor) -> None:
        self._x, self._y, radius, n, ratio, angle = parameters.T
        b = sersic_b(n.double())
        log_area = torch.lgamma(2 * n.double()) - 2 * n.double() * b.log() + (2 * np.pi * n.double()).log()
        self._peak = (TOTAL * (-log_area).exp() / radius.double() ** 2).to(n.dtype)
        self._b, self._power, root = b.to(n.dtype), 1 / n, ratio.sqrt()
        turn = torch.deg2rad(angle)
        self._along = root / radius * torch.stack([turn.cos(), turn.sin()])
        self._across = torch.stack([-turn.sin(), turn.cos()]) / (root * radius)

    def brightness(self, which: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Brightness of galaxies `which` at places [arcsec], shapes broadcast."""
        dx, dy = x - self._x[which], y - self._y[which]
        along = dx * self._along[0, which] + dy * self._along[1, which]
        across = dx * self._across[0, which] + dy * self._across[1, which]
        reduced = torch.hypot(along, across) ** self._power[which]
        return self._peak[which] * torch.exp(-self._b[which] * reduced)
