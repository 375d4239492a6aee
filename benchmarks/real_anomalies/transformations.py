"""What is done to a real spectrum to make it odd: each a plain function on the common grid.

What the instrument would have done to the light is done to flux and noise alike; what the sky does to the light leaves
the noise as it is. Where a transformation smooths, the noise that it took away is drawn again as ivar says.
"""

# L pixels of the common grid

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter1d, median_filter

from engine.spectra.grid import NUM_PIXELS, WAVE_OBS, WAVE_STEP_ANGSTROM
from engine.synthetic.anomalies import supernova
from engine.synthetic.lines import LINES, calzetti
from engine.synthetic.profiles import LIGHT_SPEED_KMS

DICHROIC_ANGSTROM = 6000.0
"""Where the cameras of BOSS meet, roughly."""
LYMAN_ALPHA, CARBON_IV = 1215.67, 1549.06
SWAN_BANDS = ((4382.0, 4.0), (4737.0, 3.0), (5165.0, 2.5), (5636.0, 4.0))
"""Heads of C2 bands [Angstrom] and how many times 60 Angstrom they reach bluewards."""


@dataclass(frozen=True)
class Spectrum:
    """Flux and ivar float64 [7781] on the common grid (ivar = 0: unusable), redshift, class and name."""

    name: str
    flux: np.ndarray
    ivar: np.ndarray
    z: float
    spectype: str

    @property
    def level(self) -> float:
        """Median flux of usable pixels, above 0."""
        return max(float(np.median(self.flux[self.ivar > 0])), 1e-6)

    @property
    def noise(self) -> np.ndarray:
        """Noise a pixel [L]; the median where a pixel is unusable."""
        sigma = np.sqrt(1 / np.where(self.ivar > 0, self.ivar, np.nan))
        return np.where(np.isfinite(sigma), sigma, np.nanmedian(sigma))


Transformation = Callable[[Spectrum, Spectrum | None, np.random.Generator], Spectrum]


def _gain(one: Spectrum, gain: np.ndarray) -> Spectrum:
    """Flux and noise times a gain [L]."""
    return replace(one, flux=one.flux * gain, ivar=one.ivar / gain**2)


def _velocity(wave: float, z: float) -> np.ndarray:
    """Velocity of each pixel against a rest wavelength at a redshift [km/s], redwards positive, [L]."""
    return LIGHT_SPEED_KMS * (WAVE_OBS / (wave * (1 + z)) - 1)


def continuum(one: Spectrum, width_angstrom: float = 300.0) -> np.ndarray:
    """Take a running median [L]; unusable pixels are interpolated over before."""
    good = one.ivar > 0
    filled = np.interp(WAVE_OBS, WAVE_OBS[good], one.flux[good])
    return median_filter(filled, int(width_angstrom / WAVE_STEP_ANGSTROM), mode="nearest")


def red_scaled(one: Spectrum, other: Spectrum | None, rng: np.random.Generator) -> Spectrum:  # noqa: ARG001
    return _gain(one, np.where(WAVE_OBS > DICHROIC_ANGSTROM, 1.5, 1.0))


def red_offset(one: Spectrum, other: Spectrum | None, rng: np.random.Generator) -> Spectrum:  # noqa: ARG001
    step = 2.0 * np.median(one.noise) * (WAVE_OBS > DICHROIC_ANGSTROM)
    return replace(one, flux=one.flux + step)


def sky_left(one: Spectrum, other: Spectrum | None, rng: np.random.Generator) -> Spectrum:  # noqa: ARG001
    local = median_filter(one.noise, 201, mode="nearest")
    on_line = (one.noise > 1.3 * local) & (WAVE_OBS > 6800)
    return replace(one, flux=one.flux + 3.0 * one.noise * on_line)


def hot_pixels(one: Spectrum, other: Spectrum | None, rng: np.random.Generator) -> Spectrum:  # noqa: ARG001
    flux = one.flux.copy()
    for first in rng.integers(200, NUM_PIXELS - 200, 5):
        flux[first : first + 6] += 25 * np.median(one.noise)
    return replace(one, flux=flux)


def dropout(one: Spectrum, other: Spectrum | None, rng: np.random.Generator) -> Spectrum:  # noqa: ARG001
    inside = (WAVE_OBS > 6400) & (WAVE_OBS < 6900)
    return replace(one, flux=np.where(inside, rng.standard_normal(NUM_PIXELS) * one.noise, one.flux))


def reversed_wave(one: Spectrum, other: Spectrum | None, rng: np.random.Generator) -> Spectrum:  # noqa: ARG001
    return replace(one, flux=one.flux[::-1].copy(), ivar=one.ivar[::-1].copy())


def blend(one: Spectrum, other: Spectrum | None, rng: np.random.Generator) -> Spectrum:  # noqa: ARG001
    assert other is not None
    scale = one.level / other.level
    usable = (one.ivar > 0) & (other.ivar > 0)
    variance = one.noise**2 + (scale * other.noise) ** 2
    return replace(one, flux=one.flux + scale * other.flux, ivar=np.where(usable, 1 / variance, 0.0))


def broadened(one: Spectrum, other: Spectrum | None, rng: np.random.Generator) -> Spectrum:  # noqa: ARG001
    # The grid is linear: 8000 km/s at its middle.
    sigma = 8000.0 / LIGHT_SPEED_KMS * WAVE_OBS.mean() / WAVE_STEP_ANGSTROM
    good = one.ivar > 0
    smooth = gaussian_filter1d(np.interp(WAVE_OBS, WAVE_OBS[good], one.flux[good]), sigma, mode="nearest")
    return replace(one, flux=smooth + rng.standard_normal(NUM_PIXELS) * one.noise)


def without_lines(one: Spectrum, other: Spectrum | None, rng: np.random.Generator) -> Spectrum:  # noqa: ARG001
    return replace(one, flux=continuum(one, 1200.0) + rng.standard_normal(NUM_PIXELS) * one.noise)


def lines_inverted(one: Spectrum, other: Spectrum | None, rng: np.random.Generator) -> Spectrum:  # noqa: ARG001
    return replace(one, flux=2 * continuum(one, 1200.0) - one.flux)


def _in_lines(one: Spectrum, names: tuple[str, ...], change: Callable[[np.ndarray], np.ndarray]) -> Spectrum:
    """Change what stands on the continuum within 1200 km/s of lines."""
    base = continuum(one)
    near = np.any([np.abs(_velocity(LINES[name], one.z)) < 1200 for name in names], axis=0)
    return replace(one, flux=np.where(near, base + change(one.flux - base), one.flux))


def double_peaked(one: Spectrum, other: Spectrum | None, rng: np.random.Generator) -> Spectrum:  # noqa: ARG001
    pixels = round(300.0 / LIGHT_SPEED_KMS * 6000 / WAVE_STEP_ANGSTROM)
    names = ("OII_3726", "Hbeta", "OIII_4959", "OIII_5007", "Halpha", "SII_6716")
    return _in_lines(one, names, lambda line: 0.5 * (np.roll(line, pixels) + np.roll(line, -pixels)))


def oxygen_enhanced(one: Spectrum, other: Spectrum | None, rng: np.random.Generator) -> Spectrum:  # noqa: ARG001
    return _in_lines(one, ("OIII_4959", "OIII_5007"), lambda line: 6 * line)


def no_h_alpha(one: Spectrum, other: Spectrum | None, rng: np.random.Generator) -> Spectrum:  # noqa: ARG001
    return _in_lines(one, ("Halpha", "NII_6584"), lambda line: -0.3 * line)


def broad_absorption(one: Spectrum, other: Spectrum | None, rng: np.random.Generator) -> Spectrum:  # noqa: ARG001
    blue = -_velocity(CARBON_IV, one.z)
    return replace(one, flux=np.where((blue > 5000) & (blue < 18000), 0.15 * one.flux, one.flux))


def damped_absorber(one: Spectrum, other: Spectrum | None, rng: np.random.Generator) -> Spectrum:  # noqa: ARG001
    offset = WAVE_OBS / (1 + one.z - 0.25) - LYMAN_ALPHA
    depth = np.square(damping_width(21.7) / np.maximum(np.abs(offset), 1e-3))
    return replace(one, flux=one.flux * np.exp(-depth))


def damping_width(log_column: float) -> float:
    """Offset from Lyman alpha [Angstrom] at which a column [log10 cm^-2] has an optical depth of 1.

    In the damping wings the optical depth falls as offset^-2: a Lorentz profile far from its centre (Draine 2011,
    "Physics of the Interstellar and Intergalactic Medium", chapters 6 and 9).
    """
    electron_radius_cm, oscillator_strength, damping_hz = 2.818e-13, 0.4164, 6.265e8
    wave_cm, light_speed_cm = LYMAN_ALPHA * 1e-8, LIGHT_SPEED_KMS * 1e5
    strength = (
        electron_radius_cm * oscillator_strength * damping_hz * wave_cm**4 / (4 * np.pi * light_speed_cm)
    )
    return float(np.sqrt(10**log_column * strength) * 1e8)


def dusty(one: Spectrum, other: Spectrum | None, rng: np.random.Generator) -> Spectrum:  # noqa: ARG001
    dimmed = 10 ** (-0.4 * 1.0 * calzetti(WAVE_OBS / (1 + max(one.z, 0.0))))
    return replace(one, flux=one.flux * dimmed / np.median(dimmed))


def with_supernova(one: Spectrum, other: Spectrum | None, rng: np.random.Generator) -> Spectrum:  # noqa: ARG001
    return replace(one, flux=one.flux + one.level * supernova(np.array([one.z]))[0])


def carbon_bands(one: Spectrum, other: Spectrum | None, rng: np.random.Generator) -> Spectrum:  # noqa: ARG001
    depth = np.zeros(NUM_PIXELS)
    for head, reach in SWAN_BANDS:
        blue = head - WAVE_OBS
        depth = np.maximum(depth, np.where(blue > 0, 0.7 * np.exp(-blue / (60 * reach / 2)), 0.0))
    return replace(one, flux=one.flux * (1 - depth))


def wrong_redshift(one: Spectrum, other: Spectrum | None, rng: np.random.Generator) -> Spectrum:  # noqa: ARG001
    return replace(one, z=one.z + 0.25 * (1 + one.z))
