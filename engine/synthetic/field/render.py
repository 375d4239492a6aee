"""Draw objects noiselessly in Fourier space: the parts once, then all bands of a pixel grid from them.

A stamp of N pixels is made from the transform of its parts. Where a PSF is undersampled, that is taken out to twice
the Nyquist frequency and folded back before the inverse transform, so that it aliases as on a detector. Light beyond the
stamp's edge comes in again on the other side: the sum of a stamp is the flux of the object.
"""

# N = pixels of a stamp, M = N or 2 N rows of its transform, K = blobs, S = SEDs, G = bands of the grid

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache

import galsim
import numpy as np
from scipy.fft import irfft2
from scipy.special import gamma

from engine.synthetic.field.bands import FloatArray, background_rms_njy
from engine.synthetic.field.cosmos import Stamps
from engine.synthetic.field.sources import Blobs, Profile, Source, sersic_b

STAMP_SIZES: tuple[int, ...] = (32, 48, 64, 96, 128, 192, 256, 384, 512)
EDGE_RMS = 0.1
"""Stamps end where an object is fainter than this part of the background rms a pixel in every band."""


LEAST_POWER = 1e-3
"""Modulation beyond the Nyquist frequency that is not worth folding."""
_AXES = (galsim.PositionD(1, 0), galsim.PositionD(0, 1), galsim.PositionD(0.6, 0.8))


@dataclass(frozen=True, slots=True)
class Stamp:
    """Light of one object, [G, N, N] nJy float32, whose pixel [0, 0] is pixel (`y`, `x`) of the mosaic."""

    x: int
    y: int
    light: FloatArray


@dataclass
class Renderer:
    """Draws objects on one pixel grid.

    Parameters
    ----------
    psfs
        Of the bands of the grid, with the detector's pixel.
    bands
        Positions in `BANDS`.
    scale
        Pixel [arcsec]; pixel 0 begins at 0 arcsec.
    stamps
        COSMOS galaxies for the profiles that want one.
    largest
        Largest stamp [pixel], one of `STAMP_SIZES`.
    rms
        Background rms a pixel of the bands [G], in the unit of the fluxes; None: that of CEERS [nJy].
    """

    psfs: Sequence[galsim.GSObject]
    bands: tuple[int, ...]
    scale: float
    stamps: Stamps | None = None
    largest: int = STAMP_SIZES[-1]
    rms: FloatArray | None = None
    _psf_transforms: dict[int, FloatArray] = field(default_factory=dict)
    _wings: FloatArray | None = None

    @cached_property
    def _effective(self) -> list[galsim.GSObject]:
        return [galsim.Convolution(psf, galsim.Pixel(self.scale)) for psf in self.psfs]

    @cached_property
    def _sampling(self) -> int:
        """2 where a PSF has power beyond the Nyquist frequency of the grid, else 1."""
        nyquist = np.pi / self.scale
        beyond = nyquist * np.linspace(1.0, 2.0, 32)
        powers = [
            abs(psf.kValue(k * direction)) for psf in self._effective for k in beyond for direction in _AXES
        ]
        return 2 if max(powers) > LEAST_POWER else 1

    def draw(self, source: Source) -> Stamp:
        """Draw one object in all bands of the grid."""
        num = self.stamp_size(source)
        x, y = source.u / self.scale - 0.5, source.v / self.scale - 0.5
        left, low = self._corner(source.u, num), self._corner(source.v, num)
        flux = source.flux[:, list(self.bands)].astype(np.float32)
        shapes = self._transforms(source, num)
        shapes *= _shift(num, self._sampling, x - left, y - low)
        total = np.tensordot(flux.T, shapes, axes=1) * self._psf_transform(num)
        light = np.asarray(irfft2(_fold(total, num), s=(num, num), overwrite_x=True))
        return Stamp(left, low, light)

    def touches(self, source: Source, rows: tuple[int, int]) -> bool:
        """Whether the stamp of a source has pixels in rows (first, after the last) of the mosaic."""
        num = self.stamp_size(source)
        low = self._corner(source.v, num)
        return low < rows[1] and low + num > rows[0]

    def _corner(self, place: float, num: int) -> int:
        """First pixel of a stamp around a place [arcsec]."""
        return round(place / self.scale - 0.5) - num // 2

    def stamp_size(self, source: Source) -> int:
        """Smallest of `STAMP_SIZES` that holds all that is above `EDGE_RMS`; `largest` if none does."""
        rms = background_rms_njy(self.scale)[list(self.bands)] if self.rms is None else self.rms
        flux = source.flux[:, list(self.bands)]
        limit = EDGE_RMS * rms
        reach = self._psf_reach(flux.sum(0) / limit)
        for part in source.profiles:
            size = _sersic_reach(part, flux[part.sed], limit / self.scale**2)
            reach = max(reach, size + float(np.hypot(part.dx, part.dy)))
        for blobs in source.blobs:
            if flux[blobs.sed].any():
                reach = max(reach, float(np.hypot(blobs.dx, blobs.dy).max()) + 4 * blobs.sigma)
        wanted = 2 * (reach / self.scale + 4)
        return next((num for num in STAMP_SIZES if wanted <= num <= self.largest), self.largest)

    def _psf_reach(self, contrast: FloatArray) -> float:
        """Radius [arcsec] beyond which no PSF is above 1 / contrast [G] of the flux in a pixel."""
        if self._wings is None:
            self._wings = np.array([self._wing(band) for band in range(len(self.bands))])
        above = (self._wings * contrast[:, None] > 1.0).any(axis=0)
        last = int(np.flatnonzero(above).max(initial=0))
        return (last + 1) * self.scale

    def _wing(self, band: int) -> FloatArray:
        """Largest value of a PSF at or beyond radii of 0, 1, 2... pixels."""
        num = STAMP_SIZES[-1]
        middle = self._psf_transform(num)[band] * _shift(num, self._sampling, num / 2, num / 2)
        image = np.asarray(irfft2(_fold(middle, num), s=(num, num)))
        offset = np.arange(num) - num // 2
        radius = np.hypot(offset[:, None], offset).astype(int).ravel()
        highest = np.zeros(num)
        np.maximum.at(highest, np.minimum(radius, num - 1), image.ravel())
        return np.maximum.accumulate(highest[::-1])[::-1]

    def _psf_transform(self, num: int) -> FloatArray:
        """Return the transforms of the effective PSFs [G, M, M / 2 + 1] complex64."""
        if num not in self._psf_transforms:
            self._psf_transforms[num] = np.stack(
                [_transform(psf, num, self._sampling, self.scale) for psf in self._effective]
            )
        return self._psf_transforms[num]

    def _transforms(self, source: Source, num: int) -> FloatArray:
        """Return transforms [S, M, M / 2 + 1] of the light of each SED, 1 in the centre."""
        rows = self._sampling * num
        shapes = np.zeros((len(source.flux), rows, rows // 2 + 1), np.complex64)
        for part in source.profiles:
            if source.flux[part.sed].any():
                shapes[part.sed] += self._profile(part, num)
        for blobs in source.blobs:
            if source.flux[blobs.sed].any():
                shapes[blobs.sed] += _blobs(blobs, num, self._sampling, self.scale)
        return shapes

    def _profile(self, part: Profile, num: int) -> FloatArray:
        """Transform [M, M / 2 + 1] of a part at its place."""
        if part.stamp < 0:
            shape = part.weight * sersic_transform(part, *_frequencies(num, self._sampling, self.scale))
        else:
            assert self.stamps is not None
            real = self.stamps.profile(part.stamp, part.half_light, part.angle)
            shape = part.weight * _transform(real, num, self._sampling, self.scale)
        if part.dx or part.dy:
            shape = shape * _shift(num, self._sampling, part.dx / self.scale, part.dy / self.scale)
        return shape


def sersic_transform(part: Profile, along: FloatArray, across: FloatArray) -> FloatArray:
    """Transform float32 [len(across), len(along)] of a Sersic profile at angular frequencies [rad/arcsec].

    Exponential disks in closed form; others by interpolation in a table of GalSim's.
    """
    turn = np.radians(part.angle)
    first, second = part.half_light, part.half_light * part.axis_ratio
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    major = along * (first * cosine) + (across * (first * sine))[:, None]
    minor = (across * (second * cosine))[:, None] - along * (second * sine)
    squared = major * major + minor * minor  # (wavenumber x half-light radius)^2 in the frame of the ellipse
    if part.index == 1.0:
        base = 1.0 + squared * np.float32(sersic_b(1.0) ** -2)
        return 1.0 / (base * np.sqrt(base))
    places, values = _sersic_table(part.index)
    return np.interp(np.log(np.maximum(squared, 1e-12)), places, values).astype(np.float32)


@cache
def _sersic_table(index: float) -> tuple[FloatArray, FloatArray]:
    """Logarithm of (wavenumber x half-light radius)^2 and the transform there."""
    profile = galsim.Sersic(index, half_light_radius=1.0)
    wavenumber = np.geomspace(1e-3, 1e4, 2400)
    return 2.0 * np.log(wavenumber), np.array([profile.kValue(k, 0.0).real for k in wavenumber])


@lru_cache(maxsize=64)
def _frequencies(num: int, sampling: int, scale: float) -> tuple[FloatArray, FloatArray]:
    """Angular frequencies [rad/arcsec] of the columns [M / 2 + 1] and rows [M] of a transform, float32."""
    half, step = sampling * num // 2, 2.0 * np.pi / (num * scale)
    return (step * np.arange(half + 1)).astype(np.float32), (step * np.arange(-half, half)).astype(np.float32)


def _transform(shape: galsim.GSObject, num: int, sampling: int, scale: float) -> FloatArray:
    """Transform [M, M / 2 + 1] complex64 of a profile; rows from -M / 2."""
    half = sampling * num // 2
    image = galsim.ImageCF(galsim.BoundsI(0, half, -half, half - 1))
    return shape.drawKImage(image=image, scale=2.0 * np.pi / (num * scale), recenter=False).array


def _shift(num: int, sampling: int, x: float, y: float) -> FloatArray:
    """Transform [M, M / 2 + 1] complex64 of a point at a place [pixel] of a stamp."""
    half = sampling * num // 2
    along, across = np.arange(half + 1), np.arange(-half, half)
    step = -2j * np.pi / num
    return np.exp(step * y * across).astype(np.complex64)[:, None] * np.exp(step * x * along).astype(
        np.complex64
    )


def _blobs(blobs: Blobs, num: int, sampling: int, scale: float) -> FloatArray:
    """Transform [M, M / 2 + 1] complex64 of round Gaussians: a product of matrices."""
    along, across = _frequencies(num, sampling, scale)
    columns = np.exp(-0.5 * np.square(blobs.sigma * along) - 1j * np.outer(blobs.dx, along))
    rows = np.exp(-0.5 * np.square(blobs.sigma * across) - 1j * np.outer(blobs.dy, across))
    return rows.T.astype(np.complex64) @ (blobs.weight[:, None] * columns).astype(np.complex64)


def _fold(transform: FloatArray, num: int) -> FloatArray:
    """Fold a transform [..., M, M / 2 + 1] to that of the sampled stamp [..., N, N / 2 + 1] as `irfft2` wants it."""
    if transform.shape[-2] == num:
        return np.fft.ifftshift(transform, axes=-2)
    rows = (
        transform[..., :num, :] + transform[..., num:, :]
    )  # row r: frequencies r - N and r, the same to N pixels
    mirrored = np.roll(rows[..., ::-1, :], 1, axis=-2)[..., num : num // 2 - 1 : -1]
    return rows[..., : num // 2 + 1] + mirrored.conj()


def _sersic_reach(part: Profile, flux: FloatArray, limit: FloatArray) -> float:
    """Semi-major axis [arcsec] where flux [G] has fallen to surface brightnesses `limit` [G], 0 if it is fainter.

    References
    ----------
    Graham & Driver (2005), PASA 22, 118, Eqs. 1 and 4.
    """
    b, n = sersic_b(part.index), part.index
    area = 2.0 * np.pi * n * np.exp(b) * b ** (-2 * n) * gamma(2 * n) * part.half_light**2 * part.axis_ratio
    contrast = float((flux * part.weight / limit).max()) / area
    return part.half_light * max(0.0, 1.0 + np.log(max(contrast, 1e-30)) / b) ** n
