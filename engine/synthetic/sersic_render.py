"""Galaxies of one Sersic profile each, drawn as the published set was: numpy, one image after the other.

The recipe is that of the "Sersic" set of Holzschuh et al. (2022) with its particulars, which change pixels:

- The field is 255.9 pixels of 0.04 arcsec wide. Of 255 pixels rounding in float32 makes 256, whose centres lie 39.98 mas
  apart between the same outermost two.
- A pixel is the mean of s x s points, s = 1 to 10 as the square root of its brightness over that of the brightest. The
  points of all pixels of one s lie evenly between the same two outermost ones, so that those of s > 1 are up to
  0.02 arcsec nearer to the middle at the edges.
- b(n) is a series that ends at n**-3.
- Brightness integrates to counts x 0.04**2 = 252.767 over the plane [arcsec2], counts being all that the
  exposure collects, and is then multiplied by the exposure time once more.

Other sizes have the same field, the same rule for points, and larger pixels that hold counts in 0.04 x 0.04 arcsec2 all
the same, as the coarser levels of the published records do: they are means, not sums.

References
----------
Holzschuh, O'Riordan, Vegetti, Rodriguez-Gomez & Thuerey (2022), MNRAS 515, 652, and its released code.
Ciotti & Bertin (1999), A&A 352, 447, Eq. 18: b(n). Graham & Driver (2005), PASA 22, 118, Eqs. 1 and 4.
"""

# B = images, S = pixels a side, P = pixels of one level, s = points a side of a pixel

import math
from typing import Any, NamedTuple

import numpy as np

SIZE = 256
"""Pixels a side of the published set."""
PIXEL_ARCSEC = 0.04
FIELD_ARCSEC = 10.0 + 5.9 * PIXEL_ARCSEC
EXPOSURE_S = 2520.0
ZERO_POINT_MAG = 26.493
MAGNITUDE = 22.0
"""AB, of all galaxies."""
TOTAL = EXPOSURE_S * 10 ** (0.4 * (ZERO_POINT_MAG - MAGNITUDE)) * PIXEL_ARCSEC**2
"""Integral of brightness over the plane, before it is multiplied by the exposure time: 252.767."""
MOST_POINTS = 10
"""Points a side of the brightest pixels."""

RANGES: dict[str, tuple[float, float]] = {
    "x_arcsec": (-1.0, 1.0),
    "y_arcsec": (-1.0, 1.0),
    "half_light_radius_arcsec": (1.0, 4.0),
    "sersic_n": (1.0, 4.0),
    "axis_ratio": (0.4, 1.0),
    "position_angle_deg": (0.0, 180.0),
}
"""Uniform ranges of the parameters, in the order of `SersicParameters`."""


class SersicParameters(NamedTuple):
    """Parameters of galaxies, float64 [B] each.

    `x_arcsec`, `y_arcsec` from the middle of the image; `half_light_radius_arcsec` circularised: the geometric mean of
    the semi-axes; `axis_ratio` minor to major; `position_angle_deg` of the major axis from +x towards +y.
    """

    x_arcsec: np.ndarray
    y_arcsec: np.ndarray
    half_light_radius_arcsec: np.ndarray
    sersic_n: np.ndarray
    axis_ratio: np.ndarray
    position_angle_deg: np.ndarray


def draw_parameters(num: int, generator: np.random.Generator) -> SersicParameters:
    """Draw `num` galaxies, each parameter uniform in its range of `RANGES`."""
    table = generator.random((num, len(RANGES)))
    return SersicParameters(
        *(low + (high - low) * table[:, i] for i, (low, high) in enumerate(RANGES.values()))
    )


def pixel_arcsec(size: int) -> float:
    """Side of a pixel where the field has `size` of them [arcsec]."""
    return PIXEL_ARCSEC * SIZE / size


def points(size: int, num: int) -> np.ndarray:
    """Places of `num` points in each pixel along an axis, float64 [size, num] arcsec from the middle."""
    limit = (FIELD_ARCSEC - pixel_arcsec(size)) / 2
    return np.linspace(-limit, limit, size * num).reshape(size, num)


def sersic_b(n: Any) -> Any:
    """Constant that makes the half-light radius what it says, by the series that ends at n**-3; number or array."""
    return 2 * n - 1 / 3 + 4 / (405 * n) + 46 / (25515 * n**2) + 131 / (148174 * n**3)


def render(parameters: SersicParameters, size: int = SIZE) -> np.ndarray:
    """Draw galaxies as the published set was drawn.

    Parameters
    ----------
    parameters
        Of B galaxies.
    size
        Pixels a side of the same field.

    Returns
    -------
    numpy.ndarray
        float32 [B, size, size], order y, x: counts in a pixel of 0.04 arcsec times seconds.

    Raises
    ------
    ValueError
        If a radius, index or axis ratio is not positive.
    """
    check_parameters(parameters)
    images = np.empty((len(parameters.sersic_n), size, size), np.float32)
    for index, one in enumerate(zip(*parameters, strict=True)):
        images[index] = _render_one(_Profile(*one), size)
    return images


def check_parameters(parameters: SersicParameters) -> None:
    """Raise ValueError, naming parameter and galaxy, where a parameter that must be positive is not."""
    for name in ("half_light_radius_arcsec", "sersic_n", "axis_ratio"):
        values = np.asarray(getattr(parameters, name))
        bad = ~(values > 0)
        if bad.any():
            first = int(bad.argmax())
            raise ValueError(f"{name} of galaxy {first} is {values[first]}, it must be above 0")


def _render_one(profile: "_Profile", size: int) -> np.ndarray:
    place = points(size, 1)[:, 0]
    image = profile.brightness(place, place[:, None])
    level = levels(image)
    for num in range(2, MOST_POINTS + 1):
        rows, columns = np.nonzero(level == num)
        place = points(size, num)
        values = profile.brightness(place[columns][:, None, :], place[rows][:, :, None])
        image[rows, columns] = values.mean(axis=(1, 2))
    return image * EXPOSURE_S


def levels(image: np.ndarray) -> np.ndarray:
    """Points a side that each pixel of an image [S, S] of single points gets, int64, 1 to `MOST_POINTS`."""
    share = np.sqrt(image)
    return np.clip(np.ceil(MOST_POINTS * share / share.max()).astype(np.int64), 1, MOST_POINTS)


class _Profile(NamedTuple):
    """One galaxy, see `SersicParameters`."""

    x: float
    y: float
    radius: float
    n: float
    axis_ratio: float
    angle_deg: float

    @property
    def peak(self) -> float:
        """Brightness in the middle."""
        b = sersic_b(self.n)
        area = self.radius**2 * 2 * math.pi * self.n * b ** (-2 * self.n) * math.gamma(2 * self.n)
        return TOTAL / area

    def brightness(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Brightness at places [arcsec], shapes broadcast."""
        turn = math.radians(self.angle_deg)
        dx, dy = x - self.x, y - self.y
        along, across = dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)
        root = math.sqrt(self.axis_ratio)
        reduced = np.hypot(root * along, across / root) / self.radius
        return self.peak * np.exp(-sersic_b(self.n) * reduced ** (1 / self.n))
