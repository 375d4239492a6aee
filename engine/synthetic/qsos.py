"""Quasar spectra: broken power law, broad lines, iron, Balmer continuum, and the Lyman-alpha forest.

Line strengths follow the composite of Vanden Berk et al. (2001), AJ 122, 549, table 2; slopes their
section 3; equivalent widths fall with luminosity (Baldwin 1977, ApJ 214, 679).
"""

# B = spectra, R = rest-frame pixels, L = observed pixels

from dataclasses import dataclass
from functools import cache

import numpy as np

from engine.spectra.grid import WAVE_OBS
from engine.synthetic import lines
from engine.synthetic.profiles import LIGHT_SPEED_KMS, FloatArray, LogGrid, add_gaussians

GRID = LogGrid(600.0, 9960.0, step=2e-4)
# wavelength [Angstrom], equivalent width [Angstrom], width relative to H beta, outflow of the line [km/s]
BROAD_LINES = (
    (1034.0, 9.0, 1.1, 500.0), (1215.67, 75.0, 1.2, 0.0), (1240.1, 18.0, 1.2, 200.0), (1304.5, 3.5, 0.8, 0.0),
    (1335.3, 1.5, 0.7, 0.0), (1398.3, 9.0, 1.1, 300.0), (1549.06, 26.0, 1.1, 800.0), (1640.4, 6.0, 1.6, 400.0),
    (1663.5, 2.0, 1.0, 0.0), (1857.4, 2.5, 1.0, 0.0), (1892.0, 3.0, 1.0, 0.0), (1908.7, 20.0, 1.2, 300.0),
    (2326.0, 2.5, 1.0, 0.0), (2799.1, 32.0, 0.9, 0.0), (4102.9, 6.0, 1.0, 0.0), (4341.7, 13.0, 1.0, 0.0),
    (4687.0, 4.0, 1.2, 0.0), (4862.7, 46.0, 1.0, 0.0), (5877.2, 5.0, 1.0, 0.0), (6564.6, 195.0, 0.9, 0.0),
)  # fmt: skip
# centre [Angstrom], sigma [Angstrom], height relative to the continuum
IRON = (
    (2100.0, 45.0, 0.05), (2250.0, 60.0, 0.10), (2380.0, 35.0, 0.14), (2490.0, 45.0, 0.17),
    (2580.0, 40.0, 0.10), (2750.0, 40.0, 0.08), (2880.0, 40.0, 0.08), (2970.0, 50.0, 0.07),
    (3200.0, 60.0, 0.05), (4470.0, 40.0, 0.06), (4570.0, 45.0, 0.11), (4640.0, 30.0, 0.05),
    (5200.0, 40.0, 0.10), (5290.0, 40.0, 0.11), (5370.0, 35.0, 0.05),
)  # fmt: skip
LYMAN_ALPHA, LYMAN_LIMIT = 1215.67, 911.76
FOREST_SPREAD = 1.5
"""Standard deviation of ln(optical depth) of the forest at the resolution of DESI."""
FOREST_KERNEL = np.array([1, 4, 9, 12, 9, 4, 1]) / np.sqrt(340.0)
"""Smoothing of the forest in pixels; unit variance stays unit variance."""


@dataclass(frozen=True)
class QsoParams:
    """What makes the quasars; arrays [B].

    `slope_blue`, `slope_red` are of f_lambda below and above 5000 Angstrom; `fwhm_kms` is of broad H beta;
    `strength` [B, lines] are equivalent widths of `BROAD_LINES` [Angstrom]; `bal_kms` [B, 2] is
    where a broad absorption dip begins and ends (0: none); `narrow_ew` [Angstrom] is of narrow H beta.
    """

    slope_blue: FloatArray
    slope_red: FloatArray
    fwhm_kms: FloatArray
    strength: FloatArray
    iron: FloatArray
    bal_kms: FloatArray
    narrow_ew: FloatArray
    narrow_ratios: FloatArray


def draw(rng: np.random.Generator, z: FloatArray, rmag: FloatArray) -> QsoParams:
    """Draw quasars at redshifts and magnitudes [B]; brighter ones have weaker lines (Baldwin 1977)."""
    num = len(z)
    log_luminosity = -0.4 * (rmag - 20.5) + 2.4 * np.log10((1.0 + z) / 2.7)
    baldwin = -0.18 * log_luminosity + rng.normal(0, 0.12, num)
    scatter = baldwin[:, None] + rng.normal(0, 0.13, (num, len(BROAD_LINES)))
    is_bal = rng.uniform(size=num) < 0.08
    start = rng.uniform(2000.0, 12000.0, num)
    end = start + rng.uniform(2000.0, 10000.0, num)
    return QsoParams(
        slope_blue=rng.normal(-1.5, 0.35, num),
        slope_red=rng.normal(-0.2, 0.45, num),
        fwhm_kms=np.clip(4500.0 * 10.0 ** rng.normal(0, 0.17, num), 1500.0, 11000.0),
        strength=np.array([line[1] for line in BROAD_LINES]) * 10.0**scatter,
        iron=10.0 ** rng.normal(0.0, 0.25, num),
        bal_kms=np.where(is_bal[:, None], np.stack([start, end], axis=1), 0.0),
        narrow_ew=10.0 ** rng.normal(0.3, 0.35, num),
        narrow_ratios=lines.ratios(np.full(num, 8.7), np.ones(num, bool), rng),
    )


def spectra(params: QsoParams, z: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Quasars in their rest frame; lines that redshift z [B] moves out of the observed range are left out.

    Returns
    -------
    rest, line_flux
        Continuum with broad lines [B, R] on `GRID`, 1 at 5000 Angstrom, and narrow-line fluxes [B, lines].
    """
    log_wave = np.log(GRID.wave / 5000.0).astype(np.float32)
    blue, red = np.minimum(log_wave, 0.0), np.maximum(log_wave, 0.0)
    exponent = params.slope_blue[:, None].astype(np.float32) * blue
    exponent += params.slope_red[:, None].astype(np.float32) * red
    continuum = np.exp(exponent)
    rest = continuum * (1.0 + params.iron[:, None].astype(np.float32) * _iron())
    _add_broad_lines(rest, continuum, params, z)
    _absorb_outflows(rest, params.bal_kms)
    return rest, params.narrow_ew[:, None] * params.narrow_ratios


def _add_broad_lines(rest: FloatArray, continuum: FloatArray, params: QsoParams, z: FloatArray) -> None:
    """Each line is a broad and a very broad Gaussian, so that it has the cusp and the wings of real ones."""
    wave, _, width, outflow = (np.array(column) for column in zip(*BROAD_LINES, strict=True))
    sigma_kms = params.fwhm_kms[:, None] * width / 2.3548
    centre = GRID.pixel(wave) - outflow / GRID.pixel_kms
    height = continuum[:, np.rint(centre).astype(int)] * params.strength
    observed = wave * (1.0 + z[:, None])
    height[(observed < 0.85 * WAVE_OBS[0]) | (observed > 1.15 * WAVE_OBS[-1])] = 0.0
    for factor, share in ((0.75, 0.6), (1.9, 0.4)):
        sigma = factor * sigma_kms
        peak = share * height / (np.sqrt(2.0 * np.pi) * wave * sigma / LIGHT_SPEED_KMS)
        add_gaussians(rest, np.broadcast_to(centre, sigma.shape), sigma / GRID.pixel_kms, peak)


def _absorb_outflows(rest: FloatArray, bal_kms: FloatArray) -> None:
    """Cut dips blueward of C IV, Si IV and N V in broad-absorption-line quasars."""
    for row in np.flatnonzero(bal_kms[:, 1] > 0):
        start, end = bal_kms[row]
        for wave, depth in ((1549.06, 0.75), (1398.3, 0.45), (1240.1, 0.6)):
            velocity = (GRID.pixel(wave) - np.arange(GRID.num_pixels)) * GRID.pixel_kms
            outside = np.abs(velocity - 0.5 * (start + end)) - 0.5 * (end - start)
            dip = 1.0 / (1.0 + np.exp(np.clip(outside / 350.0, -50.0, 50.0)))
            rest[row] *= (1.0 - depth * dip).astype(np.float32)


@cache
def _iron() -> FloatArray:
    """Fe II bumps and the Balmer continuum relative to the power law, [R] float32."""
    wave = GRID.wave
    total = sum(h * np.exp(-0.5 * np.square((wave - c) / s)) for c, s, h in IRON)
    edge = 1.0 / (1.0 + np.exp((wave - 3680.0) / 40.0))
    balmer = (
        0.11 * edge * np.clip(wave / 3646.0, 0.0, 1.0) ** 3 * np.exp(-np.square((wave - 3400.0) / 1100.0))
    )
    return (total + balmer).astype(np.float32)


def absorb_forest(flux: FloatArray, z: FloatArray, rng: np.random.Generator) -> None:
    """Dim observed spectra [B, L] in place blueward of Lyman alpha by the intergalactic medium.

    Optical depth has the mean of Faucher-Giguere et al. (2008), ApJ 681, 831, Eq. 21 (0.0018 (1+z)^3.92)
    and lognormal fluctuations; below the Lyman limit a further smooth fall.
    """
    for row in np.flatnonzero(LYMAN_ALPHA * (1.0 + z) > WAVE_OBS[0]):
        end = int(np.searchsorted(WAVE_OBS, (LYMAN_ALPHA - 3.0) * (1.0 + z[row])))
        if end < 8:
            continue
        wave = WAVE_OBS[:end]
        mean_tau = 0.0018 * (wave / LYMAN_ALPHA) ** 3.92
        tau_mean, scale = _fluctuation_scale()
        tau = mean_tau * np.interp(mean_tau, tau_mean, scale) * _lognormal(rng, end)
        limit = np.clip(LYMAN_LIMIT * (1.0 + z[row]) / wave, 1.0, None)
        tau += 2.5 * np.log(limit) ** 0.5
        flux[row, :end] *= np.exp(-tau).astype(np.float32)


def _lognormal(rng: np.random.Generator, num: int) -> FloatArray:
    """Positive field of mean 1, correlated over some 3 pixels."""
    noise = np.convolve(rng.standard_normal(num + 6), FOREST_KERNEL, mode="valid")
    return np.exp(FOREST_SPREAD * noise - 0.5 * FOREST_SPREAD**2)


@cache
def _fluctuation_scale() -> tuple[FloatArray, FloatArray]:
    """Effective optical depths, and the factor by which the mean of a lognormal field must exceed each.

    Clumped gas transmits more than smooth gas of the same mean; Gauss-Hermite quadrature of exp(-tau).
    """
    x, weight = np.polynomial.hermite_e.hermegauss(60)
    field = np.exp(FOREST_SPREAD * x - 0.5 * FOREST_SPREAD**2)
    mean = np.geomspace(0.01, 60.0, 400)
    effective = -np.log(np.exp(-mean[:, None] * field) @ weight / weight.sum())
    return effective, mean / effective
