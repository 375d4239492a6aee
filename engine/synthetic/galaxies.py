"""Galaxy spectra: mixed stellar populations behind dust, with nebular emission.

A population is a light-weighted mixture of the stars of `engine.synthetic.stars`; the mixtures stand for
single ages. A galaxy mixes ages and metallicities, is broadened by its velocity dispersion and attenuated
(Calzetti et al. 2000; the stars see 0.44 of the reddening of the gas, their Eq. 3).
"""

# B = spectra, R = rest-frame pixels, K = templates, M = emission lines

from dataclasses import dataclass
from functools import cache

import numpy as np

from engine.synthetic import lines, stars
from engine.synthetic.profiles import FloatArray, LogGrid, interpolation_weights

GRID = LogGrid(1250.0, 9960.0)
# log age [Gyr]-like order 0 (young) to 1 (old): light fractions at 5500 Angstrom by temperature [K]
AGES: tuple[tuple[float, dict[float, float]], ...] = (
    (0.00, {28000.0: 0.75, 15000.0: 0.18, 4000.0: 0.07}),
    (0.20, {14000.0: 0.66, 9500.0: 0.20, 4500.0: 0.14}),
    (0.40, {9800.0: 0.60, 7600.0: 0.22, 4600.0: 0.18}),
    (0.55, {7900.0: 0.50, 6600.0: 0.22, 4700.0: 0.28}),
    (0.80, {6400.0: 0.42, 5300.0: 0.25, 4500.0: 0.28, 3600.0: 0.05}),
    (1.00, {5900.0: 0.28, 5100.0: 0.27, 4400.0: 0.34, 3500.0: 0.11}),
)
METALS = (0.6, 1.5)
DISPERSIONS_KMS = np.array([60.0, 160.0, 320.0])
EBV_NODES = np.linspace(0.0, 0.45, 15)
"""E(B-V) of the stars between which attenuation is interpolated; worse than 1 % nowhere above 2000 A."""
STARS_TO_GAS_EBV = 0.44
KINDS = ("BGS", "LRG", "ELG")


@dataclass(frozen=True)
class GalaxyParams:
    """What makes the galaxies; arrays [B] unless said otherwise.

    `weights` [B, ages, metals] are light fractions; `hbeta_ew` [Angstrom, rest] is free of dust;
    `line_ratios` [B, M] are relative to H beta, free of dust; `split_kms` parts the two components of
    double-peaked lines (0: single).
    """

    weights: FloatArray
    sigma_kms: FloatArray
    gas_sigma_kms: FloatArray
    ebv: FloatArray
    hbeta_ew: FloatArray
    line_ratios: FloatArray
    split_kms: FloatArray


def draw(rng: np.random.Generator, kind: np.ndarray, is_emission: np.ndarray) -> GalaxyParams:
    """Draw galaxies of kinds [B] out of `KINDS`; where `is_emission`, with strong lines."""
    num = len(kind)
    is_lrg, is_elg = kind == "LRG", kind == "ELG"
    is_blue = is_elg | is_emission | (~is_lrg & (rng.uniform(size=num) < 0.55))
    age = np.where(is_blue, np.where(is_elg, rng.normal(0.28, 0.1, num), rng.normal(0.48, 0.12, num)),
                   rng.normal(0.97, 0.08, num))  # fmt: skip
    bulge = np.where(is_blue, rng.uniform(0.0, np.where(is_elg, 0.2, 0.6)), rng.uniform(0.3, 1.0, num))
    log_ew = np.where(is_blue, np.where(is_elg, rng.normal(1.3, 0.3, num), rng.normal(0.75, 0.35, num)),
                      rng.normal(-0.9, 0.45, num))  # fmt: skip
    log_ew = np.where(is_emission, np.maximum(log_ew, 0.9), log_ew)
    log_oh = np.clip(8.75 - 0.45 * (log_ew - 0.5) + rng.normal(0, 0.15, num), 7.8, 9.1)
    is_agn = np.where(is_blue, rng.uniform(size=num) < 0.06, rng.uniform(size=num) < 0.7)
    sigma = np.where(
        is_lrg, rng.normal(225, 45, num), np.where(is_blue, rng.normal(85, 30, num), rng.normal(160, 50, num))
    )
    dusty = rng.gamma(2.5, np.where(is_elg, 0.07, 0.11))
    return GalaxyParams(
        weights=_age_weights(rng, age, bulge, is_blue),
        sigma_kms=np.clip(sigma, 35.0, 380.0),
        gas_sigma_kms=np.clip(sigma * rng.uniform(0.5, 1.0, num), 30.0, 300.0),
        ebv=np.clip(np.where(is_blue, dusty, rng.gamma(1.2, 0.08, num)), 0.0, 1.0),
        hbeta_ew=10.0**log_ew,
        line_ratios=lines.ratios(log_oh, is_agn, rng),
        split_kms=np.zeros(num),
    )  # fmt: skip


def _age_weights(
    rng: np.random.Generator, age: FloatArray, bulge: FloatArray, is_blue: np.ndarray
) -> FloatArray:
    """Light fractions [B, ages, metals]: a disc of mean age `age` and a bulge of old stars."""
    nodes = np.array([place for place, _ in AGES])
    disc = np.exp(-0.5 * np.square((nodes - age[:, None]) / 0.13))
    old = np.exp(-0.5 * np.square((nodes - 0.97) / 0.10))
    mix = (1.0 - bulge)[:, None] * disc / disc.sum(1, keepdims=True) + bulge[:, None] * old / old.sum()
    mix = mix * np.exp(rng.normal(0.0, 0.25, mix.shape))
    rich = np.where(is_blue, rng.uniform(0.0, 0.7, len(age)), rng.uniform(0.4, 1.0, len(age)))
    metals = np.stack([1.0 - rich, rich], axis=1)
    return mix[:, :, None] * metals[:, None, :] / mix.sum(1)[:, None, None]


def spectra(params: GalaxyParams) -> tuple[FloatArray, FloatArray]:
    """Stellar light and emission of galaxies in their rest frame.

    Returns
    -------
    rest, line_flux
        Attenuated continuum [B, R] on `GRID`, about 1 in the optical, and attenuated line fluxes [B, M]
        [continuum unit x Angstrom].
    """
    broadening = interpolation_weights(params.sigma_kms, DISPERSIONS_KMS)
    num = len(broadening)
    weights = params.weights.reshape(num, -1)[:, None, :] * broadening[:, :, None]
    rest = weights.reshape(num, -1).astype(np.float32) @ templates()
    at_hbeta = rest[:, round(float(GRID.pixel(lines.LINES["Hbeta"])))]
    rest *= interpolation_weights(STARS_TO_GAS_EBV * params.ebv, EBV_NODES) @ _attenuation()
    intrinsic = (params.hbeta_ew * at_hbeta)[:, None] * params.line_ratios
    return rest, lines.attenuate(intrinsic, params.ebv)


@cache
def templates() -> FloatArray:
    """Broadened populations [3 x 6 x 2, R] float32: by dispersion, age, metals; 1 at 5500 Angstrom."""
    wave = GRID.wave
    weak = stars.weak_lines(wave)
    near = slice(*np.searchsorted(wave, [5450.0, 5550.0]))
    populations = []
    for _, fractions in AGES:
        for metals in METALS:
            parts = [(w, stars.stellar_spectrum(wave, t, metals, weak)) for t, w in fractions.items()]
            populations.append(sum(w * star / star[near].mean() for w, star in parts))
    stacked = np.array(populations)
    return np.concatenate([_broaden(stacked, s) for s in DISPERSIONS_KMS]).astype(np.float32)


def _broaden(rows: FloatArray, sigma_kms: float) -> FloatArray:
    """Convolve rows [K, R] on a log grid with a Gaussian; ends are extended by their last value."""
    sigma = sigma_kms / GRID.pixel_kms
    reach = int(np.ceil(5 * sigma))
    kernel = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sigma))
    padded = np.pad(rows, ((0, 0), (reach, reach)), mode="edge")
    return np.array([np.convolve(row, kernel / kernel.sum(), mode="valid") for row in padded])


@cache
def _attenuation() -> FloatArray:
    """Transmission [nodes, R] float32 at `EBV_NODES`."""
    return (10.0 ** (-0.4 * EBV_NODES[:, None] * lines.calzetti(GRID.wave))).astype(np.float32)
