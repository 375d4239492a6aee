"""Light of galaxies and stars in the six bands, from simple templates in plain numpy.

Stars of a population are those of `engine.synthetic.stars` (blackbodies with Balmer jump, 4000 Angstrom break
and molecular bands), mixed by age as in `engine.synthetic.galaxies`, with the red giants that make most of the light
beyond 1 micron, behind Calzetti dust, with nebular lines of `engine.synthetic.lines`, and absorbed by the
intergalactic medium. Only colours are made here: 1 nJy in F200W.
"""

# B = objects, R = rest-frame pixels, A = ages, W = wavelengths in a band, M = emission lines

from dataclasses import dataclass
from functools import cache

import numpy as np

from engine.synthetic import lines, stars
from engine.synthetic.field.bands import EDGES_MICRON, REFERENCE, FloatArray
from engine.synthetic.galaxies import AGES
from engine.synthetic.profiles import LogGrid

GRID = LogGrid(500.0, 60000.0, 1e-3)
SAMPLES = 32
"""Wavelengths at which a band is sampled, uniform in log."""
AGE_SIGMA = 0.10
LYMAN_LIMIT, LYMAN_ALPHA = 912.0, 1215.67
STARS_TO_GAS_EBV = 0.44
V_MINUS_K = (1.2, 1.8, 2.2, 2.6, 2.9, 3.2)
"""V - K (Vega) of the ages from some 10 Myr to 10 Gyr, about what models of populations of solar metallicity give
(Bruzual & Charlot 2003). The mixtures of `galaxies.AGES`, made for optical spectra, alone give 0.5 to 2.5."""
GIANT_KELVIN = 2700.0
"""One colour temperature for all that is cool; with it V - I and J - H come out right as well."""
V_ANGSTROM, K_ANGSTROM, VEGA_K_MINUS_V = 5500.0, 21900.0, 1.83
BUMP_ANGSTROM, BUMP_HEIGHT, BUMP_LN_WIDTH = 16500.0, 0.25, 0.12
"""Cool stars are brightest at 1.65 micron, where the opacity of H- has its minimum (John 1988)."""


@dataclass(frozen=True, slots=True)
class SedParams:
    """What makes the colours; arrays [B].

    `age` on the scale of `galaxies.AGES` (0 young to 1 old), `ebv` of the stars [mag], `hbeta_ew` rest
    equivalent width free of dust [Angstrom], `log_oh` 12 + log(O/H), `z` redshift.
    """

    age: FloatArray
    ebv: FloatArray
    hbeta_ew: FloatArray
    log_oh: FloatArray
    z: FloatArray


def galaxy_colours(params: SedParams, rng: np.random.Generator) -> FloatArray:
    """Mean flux density f_nu [B, 6] of populations, 1 in F200W.

    References
    ----------
    Calzetti et al. (2000), ApJ 533, 682: dust. Madau (1995), ApJ 441, 18: Lyman alpha forest.
    """
    wave = _wavelengths()
    rest = wave[None] / (1.0 + params.z)[:, None, None]
    light = _starlight(params.age, rest)
    light *= 10.0 ** (-0.4 * params.ebv[:, None, None] * _attenuation(rest))
    light *= _transmission(rest, params.z)
    # photon-weighted mean of f_nu: integral of f_lambda lambda dlambda over that of c / lambda dlambda
    numerator = (light * np.square(wave)).mean(axis=2)
    numerator += _line_light(params, rng)
    return numerator / numerator[:, REFERENCE, None]


def blackbody_colours(temperature: FloatArray) -> FloatArray:
    """Mean flux density f_nu [B, 6] of blackbodies [K], 1 in F200W."""
    wave = _wavelengths()
    light = np.array([stars.blackbody(wave, float(t)) for t in temperature]).reshape(-1, *wave.shape)
    numerator = (light * np.square(wave)).mean(axis=2)
    return numerator / numerator[:, REFERENCE, None]


def _wavelengths() -> FloatArray:
    """Observed wavelengths [6, W] in Angstrom, midpoints uniform in log between the edges."""
    places = (np.arange(SAMPLES) + 0.5) / SAMPLES
    low, high = np.log(EDGES_MICRON * 1e4).T
    return np.exp(low[:, None] + places * (high - low)[:, None])


def _starlight(age: FloatArray, rest: FloatArray) -> FloatArray:
    """f_lambda [B, 6, W] of a population at rest wavelengths, 1 at 5500 Angstrom."""
    nodes = np.array([place for place, _ in AGES])
    weight = np.exp(-0.5 * np.square((nodes - age[:, None]) / AGE_SIGMA))
    mixed = (weight / weight.sum(1, keepdims=True)) @ populations()
    place = np.clip(GRID.pixel(rest), 0.0, GRID.num_pixels - 1.001)
    left = place.astype(np.int64)
    rows = np.arange(len(age))[:, None, None]
    start = mixed[rows, left]
    return start + (place - left) * (mixed[rows, left + 1] - start)


@cache
def populations() -> FloatArray:
    """f_lambda [A, R] of the ages on `GRID`, 1 at 5500 Angstrom."""
    giant = _star(GIANT_KELVIN)
    giant *= 1 + BUMP_HEIGHT * np.exp(-0.5 * np.square(np.log(GRID.wave / BUMP_ANGSTROM) / BUMP_LN_WIDTH))
    rows = []
    for (_, fractions), colour in zip(AGES, V_MINUS_K, strict=True):
        row = np.sum([share * _star(temperature) for temperature, share in fractions.items()], axis=0)
        wanted = (V_ANGSTROM / K_ANGSTROM) ** 2 * 10.0 ** (0.4 * (colour - VEGA_K_MINUS_V))
        pixel = round(float(GRID.pixel(K_ANGSTROM)))
        share = (wanted - row[pixel]) / (giant[pixel] - row[pixel])
        rows.append((1 - share) * row + share * giant)
    return np.array(rows)


def _star(temperature: float) -> FloatArray:
    """f_lambda [R] of a star on `GRID`, 1 at 5500 Angstrom."""
    star = stars.stellar_spectrum(GRID.wave, temperature, 1.0, np.zeros_like(GRID.wave))
    return star / star[round(float(GRID.pixel(V_ANGSTROM)))]


def _attenuation(rest: FloatArray) -> FloatArray:
    """Calzetti's curve; it ends at 2.2 micron, beyond it falls as a power law of index -1.7."""
    end = 22000.0
    return lines.calzetti(np.minimum(rest, end)) * np.minimum(1.0, (end / rest)) ** 1.7


def _transmission(rest: FloatArray, z: FloatArray) -> FloatArray:
    """Part of the light that passes the intergalactic medium (Lyman alpha forest and limit)."""
    observed = rest * (1.0 + z)[:, None, None]
    tau = 0.0036 * (observed / LYMAN_ALPHA) ** 3.46
    return np.where(rest < LYMAN_LIMIT, 0.0, np.where(rest < LYMAN_ALPHA, np.exp(-tau), 1.0))


def _line_light(params: SedParams, rng: np.random.Generator) -> FloatArray:
    """Return what lines add to the numerator [B, 6] of `galaxy_colours`."""
    ratio = lines.ratios(params.log_oh, np.zeros(len(params.z), bool), rng)
    continuum = _starlight(params.age, np.full((len(params.z), 1, 1), lines.LINES["Hbeta"]))[:, :, 0]
    flux = lines.attenuate(params.hbeta_ew[:, None] * continuum * ratio, params.ebv / STARS_TO_GAS_EBV)
    observed = lines.WAVES * (1.0 + params.z)[:, None]
    low, high = (EDGES_MICRON * 1e4).T
    inside = (observed[:, None] > low[:, None]) & (observed[:, None] < high[:, None])
    # a line adds F (1 + z) lambda to the integral of f_lambda lambda dlambda; the mean above is that by ln width
    added = (flux * (1.0 + params.z)[:, None] * observed)[:, None] * inside
    return added.sum(axis=2) / np.log(high / low)
