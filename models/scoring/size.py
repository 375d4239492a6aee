"""Half-light radii on cutouts, for a batch at once."""

# B objects, S pixels a side

import torch
from torch import Tensor

LIMIT = 1 / 3
"""Light within this part of the side of a cutout is the object's."""
TRUNCATED_RADIUS = 0.392
"""Half-light radius, as part of that limit, of an exponential disk of which a tenth of the light lies beyond it."""


def half_light_radius(image: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Radius of the circle that holds half of the light within `LIMIT` sides of the centre [pixel].

    The PSF is not taken out. Noise makes it uncertain, a neighbour larger.

    Parameters
    ----------
    image
        [B, S, S] order y, x; 0 where there is no data.
    dx, dy
        [B] centre minus S // 2 [pixel].

    Returns
    -------
    Tensor
        [B]; NaN where there is no light.
    """
    size = image.shape[-1]
    at = torch.arange(size, device=image.device, dtype=image.dtype) - size // 2
    radius = torch.hypot(at - dx[:, None, None], at[:, None] - dy[:, None, None]).flatten(1)
    order = radius.argsort(1)
    light = image.flatten(1).gather(1, order)
    inside = radius.gather(1, order) <= LIMIT * size
    growth = torch.where(inside, light, 0).double().cumsum(1)
    half = growth[:, -1:] / 2
    # The area is the number of pixels up to the half; of the last one, the part that its light is needed of.
    index = (growth >= half).double().argmax(1, keepdim=True)
    beyond = (growth.gather(1, index) - half) / light.gather(1, index).double().clamp_min(1e-30)
    found = ((index + 1 - beyond.clamp(0, 1)) / torch.pi).sqrt()[:, 0]
    return torch.where(half[:, 0] > 0, found, torch.nan).to(image.dtype)


def is_truncated(radius: Tensor, size: int) -> Tensor:
    """Say which objects reach beyond their cutouts of `size` pixels, by `half_light_radius` [pixel]; False for NaN."""
    return radius > TRUNCATED_RADIUS * LIMIT * size
