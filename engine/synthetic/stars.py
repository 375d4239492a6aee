"""Stellar spectra: blackbodies with the absorption that makes spectral types recognisable.

Not a model atmosphere: strengths follow temperature the way classification does (Gray & Corbally 2009,
Stellar Spectral Classification): Balmer lines and jump strongest at A0, Ca II and metals growing to K,
TiO below 4000 K. White dwarfs are DA with pressure-broadened Balmer lines.
"""

# B = spectra, R = rest-frame pixels, K = templates

from dataclasses import dataclass
from functools import cache

import numpy as np

from engine.synthetic.profiles import FloatArray, LogGrid, interpolation_weights

GRID = LogGrid(3500.0, 9960.0)
RYDBERG_ANGSTROM = 911.7634
"""Lyman limit of hydrogen in vacuum."""
SECOND_RADIATION_CONSTANT = 1.438776877e8
"""h c / k [Angstrom K] (CODATA 2018)."""
TEMPERATURES = np.geomspace(2700.0, 30000.0, 30)
METALLICITIES = np.array([0.4, 1.5])
"""Relative strength of metal lines at the two ends of the range."""
WD_TEMPERATURES = np.geomspace(7000.0, 40000.0, 8)

# centre [Angstrom], sigma [Angstrom], depth at full strength
METAL_LINES = (
    (2796.4, 4.0, 0.55), (2803.5, 4.0, 0.50), (2852.9, 4.0, 0.45), (3096.0, 18.0, 0.25),
    (3360.0, 22.0, 0.22), (3581.0, 10.0, 0.35), (3735.0, 14.0, 0.38), (3860.0, 22.0, 0.35),
    (4045.8, 2.5, 0.18), (4175.0, 18.0, 0.14), (4227.9, 3.0, 0.30), (4305.6, 11.0, 0.36), (4326.0, 4.0, 0.12),
    (4384.8, 4.0, 0.22), (4455.0, 6.0, 0.14), (4532.0, 8.0, 0.12), (4668.0, 14.0, 0.12), (4920.0, 4.0, 0.08),
    (5015.2, 8.0, 0.12), (5110.0, 25.0, 0.09), (5168.8, 2.6, 0.30), (5174.1, 2.6, 0.34), (5185.0, 2.6, 0.34),
    (5270.9, 5.0, 0.19), (5329.6, 4.5, 0.16), (5406.6, 4.0, 0.10), (5709.4, 4.0, 0.07), (5782.0, 5.0, 0.06),
    (5891.6, 2.0, 0.34), (5897.6, 2.0, 0.30), (6104.4, 3.0, 0.05), (6137.9, 3.0, 0.06), (6163.9, 3.0, 0.06),
    (6497.0, 5.0, 0.07), (8500.4, 2.4, 0.28), (8544.4, 2.8, 0.42), (8664.5, 2.6, 0.36), (8809.2, 2.0, 0.07),
)  # fmt: skip
CALCIUM_HK = ((3934.8, 7.0, 0.72), (3969.6, 6.5, 0.66))
# band head [Angstrom], depth at full strength, e-folding length redward [Angstrom]
MOLECULAR_BANDS = (
    (4763.0, 0.25, 60.0), (4956.0, 0.32, 70.0), (5168.0, 0.35, 80.0), (5449.0, 0.35, 100.0),
    (5848.0, 0.36, 70.0), (6160.0, 0.46, 110.0), (6385.0, 0.16, 30.0), (6653.0, 0.40, 90.0),
    (6751.0, 0.20, 40.0), (7055.0, 0.55, 130.0), (7591.0, 0.45, 140.0), (7854.0, 0.15, 60.0),
    (8434.0, 0.30, 120.0), (8861.0, 0.32, 130.0), (9211.0, 0.22, 110.0),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StarParams:
    """What makes the stars: effective temperature [K], metal strength, and whether a white dwarf; [B]."""

    temperature: FloatArray
    metals: FloatArray
    is_white_dwarf: np.ndarray


def draw(rng: np.random.Generator, num: int) -> StarParams:
    """Draw stars as a survey targets them: mostly F to K, some A and M, few white dwarfs."""
    kind = rng.choice(4, num, p=[0.08, 0.62, 0.22, 0.08])
    log_t = np.select(
        [kind == 0, kind == 1, kind == 2],
        [rng.normal(3.93, 0.03, num), rng.normal(3.745, 0.05, num), rng.normal(3.545, 0.045, num)],
        rng.uniform(3.86, 4.55, num),
    )
    return StarParams(10.0**log_t, rng.uniform(0.4, 1.5, num), kind == 3)


def subtype(params: StarParams) -> np.ndarray:
    """Spectral class as redrock names it: WD, A, F, G, K or M."""
    edges = np.array([3900.0, 5200.0, 5950.0, 7400.0])
    names = np.array(["M", "K", "G", "F", "A"])[np.digitize(params.temperature, edges)]
    return np.where(params.is_white_dwarf, "WD", names)


def spectra(params: StarParams) -> FloatArray:
    """Rest-frame spectra [B, R] on `GRID`, about 1 near 6400 Angstrom."""
    stars, dwarfs = templates()
    temperature = interpolation_weights(np.log(params.temperature), np.log(TEMPERATURES))
    metals = interpolation_weights(params.metals, METALLICITIES)
    weights = (metals[:, :, None] * temperature[:, None, :]).reshape(len(metals), -1)
    weights[params.is_white_dwarf] = 0.0
    wd = interpolation_weights(np.log(params.temperature), np.log(WD_TEMPERATURES))
    wd[~params.is_white_dwarf] = 0.0
    return weights @ stars + wd @ dwarfs


@cache
def templates() -> tuple[FloatArray, FloatArray]:
    """Templates on `GRID`: stars [2 x 30, R], by metals then temperature, and white dwarfs [8, R]."""
    wave = GRID.wave
    weak = weak_lines(wave)
    stars = [stellar_spectrum(wave, t, m, weak) for m in METALLICITIES for t in TEMPERATURES]
    dwarfs = [white_dwarf_spectrum(wave, t) for t in WD_TEMPERATURES]
    return np.array(stars, np.float32), np.array(dwarfs, np.float32)


def stellar_spectrum(wave: FloatArray, temperature: float, metals: float, weak: FloatArray) -> FloatArray:
    """Spectrum of one star, 1 in the continuum at 6400 Angstrom.

    Parameters
    ----------
    wave
        Vacuum wavelengths [Angstrom].
    temperature
        Effective temperature [K], 2500 to 50000.
    metals
        Strength of the metal lines relative to the Sun, about 0.3 to 2.
    weak
        `weak_lines(wave)`.
    """
    cool = metals * _sigmoid((6300.0 - temperature) / 700.0)
    hydrogen = np.exp(
        -0.5 * np.square(np.log(temperature / 9500.0) / (0.28 if temperature < 9500.0 else 0.45))
    )
    flux = blackbody(wave, temperature) * balmer(wave, 0.70 * hydrogen, 7.0, 0.55 * hydrogen)
    flux *= 1.0 - np.clip(0.27 * cool * _sigmoid((3995.0 - wave) / 25.0), 0.0, 0.9)
    flux *= 1.0 - np.clip(0.45 * cool * _sigmoid((2640.0 - wave) / 30.0), 0.0, 0.9)
    calcium = min(1.0, metals**0.5) * _sigmoid((7400.0 - temperature) / 700.0)
    flux *= _absorb(wave, CALCIUM_HK, calcium) * _absorb(wave, METAL_LINES, cool)
    flux *= 1.0 - np.clip(cool * weak, 0.0, 0.8)
    return flux * _molecules(wave, metals**0.3 * _sigmoid((3750.0 - temperature) / 220.0))


def white_dwarf_spectrum(wave: FloatArray, temperature: float) -> FloatArray:
    """Spectrum [L] of a DA white dwarf, temperature [K]: blackbody with Balmer lines broadened by pressure."""
    strength = np.exp(-0.5 * np.square(np.log(temperature / 13000.0) / 0.55))
    return blackbody(wave, temperature) * balmer(wave, 0.55 * strength, 32.0, 0.25 * strength, last=9)


def blackbody(wave: FloatArray, temperature: float) -> FloatArray:
    """Planck's B_lambda [L] at wavelengths [L], Angstrom, and a temperature [K]; 1 at 6400 Angstrom."""
    x = SECOND_RADIATION_CONSTANT / temperature
    return (6400.0 / wave) ** 5 * np.expm1(x / 6400.0) / np.expm1(x / wave)


def balmer(wave: FloatArray, depth: float, width: float, jump: float, last: int = 24) -> FloatArray:
    """Transmission of the Balmer series and of the jump at 3646 Angstrom.

    Lines have Lorentzian wings to the power 1.5.

    Parameters
    ----------
    wave
        [L], Angstrom.
    depth
        Of H beta, 0 to 1; H alpha has three quarters of it.
    width
        Of H beta [Angstrom]; it falls to the limit of the series, so that the lines merge there.
    jump
        Part of the light that is missing below 3646 Angstrom, 0 to 1.
    last
        Upper level of the last line.

    Returns
    -------
    numpy.ndarray
        [L], 0 to 1.
    """
    transmission = 1.0 - jump * _sigmoid((4.0 * RYDBERG_ANGSTROM + 30.0 - wave) / 12.0)
    for level in range(3, last + 1):
        centre = RYDBERG_ANGSTROM / (0.25 - 1.0 / level**2)
        scale = width * (4.0 / level) ** 0.7
        line_depth = depth * (0.75 if level == 3 else 1.0) * min(1.0, (10.0 / level) ** 1.2)
        transmission *= 1.0 - line_depth * (1.0 + np.square((wave - centre) / scale)) ** -1.5
    return transmission


def _absorb(
    wave: FloatArray, lines: tuple[tuple[float, float, float], ...], strength: FloatArray | float
) -> FloatArray:
    transmission = np.ones_like(wave)
    for centre, sigma, depth in lines:
        near = slice(*np.searchsorted(wave, [centre - 6 * sigma, centre + 6 * sigma]))
        shape = np.exp(-0.5 * np.square((wave[near] - centre) / sigma))
        transmission[near] *= 1.0 - min(0.95, depth * strength) * shape
    return transmission


def _molecules(wave: FloatArray, strength: FloatArray | float) -> FloatArray:
    transmission = np.ones_like(wave)
    for head, depth, length in MOLECULAR_BANDS:
        shape = _sigmoid((wave - head) / 2.0) * np.exp(-np.maximum(wave - head, 0.0) / length)
        transmission *= 1.0 - min(0.9, 1.3 * depth * strength) * shape
    return transmission


def weak_lines(wave: FloatArray) -> FloatArray:
    """Depth [L] of blended weak lines of iron-peak elements, denser to the blue: a fixed random pattern."""
    rng = np.random.default_rng(20240517)
    centres = 3000.0 * 10.0 ** (0.45 * rng.uniform(0, 1, 1400) ** 1.7)
    depths = rng.exponential(0.06, centres.size) * np.clip((7500.0 - centres) / 3500.0, 0.15, 1.0)
    widths = rng.uniform(0.8, 2.2, centres.size)
    total = np.zeros_like(wave)
    for centre, sigma, depth in zip(centres, widths, depths, strict=True):
        near = slice(*np.searchsorted(wave, [centre - 5 * sigma, centre + 5 * sigma]))
        total[near] += depth * np.exp(-0.5 * np.square((wave[near] - centre) / sigma))
    return total


def _sigmoid(x: FloatArray | float) -> FloatArray:
    return 1.0 / (1.0 + np.exp(-np.clip(x, -60.0, 60.0)))
