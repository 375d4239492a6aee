"""Nebular emission lines: which there are, in which ratios, and what dust does to them."""

# B = spectra, M = lines

import numpy as np

from engine.synthetic.profiles import FloatArray

LINES: dict[str, float] = {
    "OII_3726": 3727.09, "OII_3729": 3729.88, "NeIII_3869": 3869.86, "H8": 3890.15, "Hepsilon": 3971.19,
    "Hdelta": 4102.89, "Hgamma": 4341.68, "OIII_4363": 4364.44, "HeII_4686": 4687.02, "Hbeta": 4862.68,
    "OIII_4959": 4960.30, "OIII_5007": 5008.24, "HeI_5876": 5877.25, "OI_6300": 6302.05,
    "NII_6548": 6549.86, "Halpha": 6564.61, "NII_6584": 6585.27, "SII_6716": 6718.29, "SII_6731": 6732.67,
    "SIII_9069": 9071.1, "SIII_9531": 9533.2, "MgII_2796": 2796.35, "MgII_2803": 2803.53,
}  # fmt: skip
"""Vacuum wavelengths [Angstrom]."""
NAMES: tuple[str, ...] = tuple(LINES)
WAVES: FloatArray = np.array(list(LINES.values()))
BALMER = {"Halpha": 2.86, "Hbeta": 1.0, "Hgamma": 0.468, "Hdelta": 0.259, "Hepsilon": 0.159, "H8": 0.105}
"""Case B at 10^4 K and 100 cm^-3 relative to H beta (Osterbrock & Ferland 2006, table 4.4)."""
OIII_RATIO, NII_RATIO = 2.98, 2.95
"""5007/4959 and 6584/6548, fixed by atomic physics (Storey & Zeippen 2000)."""


def column(name: str) -> int:
    """Position of a line in `NAMES`, `WAVES` and the arrays of this module."""
    return NAMES.index(name)


def calzetti(wave: FloatArray) -> FloatArray:
    """Attenuation curve k(lambda) = A(lambda) / E(B-V).

    Parameters
    ----------
    wave
        Rest wavelength [Angstrom]; below 1200 Angstrom the value there is used.

    References
    ----------
    Calzetti et al. (2000), ApJ 533, 682, Eq. 4; R_V = 4.05.
    """
    micron = np.maximum(np.asarray(wave), 1200.0) * 1e-4
    blue = -2.156 + 1.509 / micron - 0.198 / micron**2 + 0.011 / micron**3
    red = -1.857 + 1.040 / micron
    return 2.659 * np.where(micron < 0.63, blue, red) + 4.05


def ratios(log_oh: FloatArray, is_agn: np.ndarray, rng: np.random.Generator) -> FloatArray:
    """Dust-free line fluxes relative to H beta.

    Star-forming gas follows the BPT sequence by its metallicity; active nuclei lie in the Seyfert region.

    Parameters
    ----------
    log_oh
        [B] 12 + log(O/H), 7.8 to 9.1.
    is_agn
        [B] ionised by an active nucleus.
    rng
        For the scatter about the sequence.

    Returns
    -------
    ratios
        [B, M], in the order of `NAMES`.

    References
    ----------
    Pettini & Pagel (2004), MNRAS 348, L59, Eq. 1: metallicity to [NII]/Halpha. Kewley et al. (2013), ApJ
    774, L10, Eq. 1: the sequence in the BPT diagram at z = 0.
    """
    num = len(log_oh)
    log_n2 = np.clip((log_oh - 8.90) / 0.57, -1.8, -0.35) + rng.normal(0, 0.05, num)
    log_n2 = np.where(is_agn, rng.normal(-0.05, 0.12, num), np.minimum(log_n2, -0.3))
    log_o3 = 0.61 / (log_n2 + 0.08) + 1.1 + rng.normal(0, 0.07, num)
    log_o3 = np.where(is_agn, rng.normal(0.85, 0.15, num), np.clip(log_o3, -1.2, 0.9))
    o2 = 10.0 ** (np.where(is_agn, 0.35, 0.42 - 0.5 * np.square(log_oh - 8.4)) + rng.normal(0, 0.08, num))
    table = dict.fromkeys(NAMES, np.zeros(num)) | {k: np.full(num, v) for k, v in BALMER.items()}
    table |= _forbidden(10.0**log_o3, 2.86 * 10.0**log_n2, o2, is_agn, rng)
    return np.stack([table[name] for name in NAMES], axis=1)


def _forbidden(
    o3: FloatArray, n2: FloatArray, o2: FloatArray, is_agn: np.ndarray, rng: np.random.Generator
) -> dict[str, FloatArray]:
    """Collisionally excited and helium lines; the doublets of [OII] and [SII] follow one density."""
    num = len(o3)
    low_density = rng.uniform(0.0, 1.0, num)
    oii, sii = 1.0 + 0.42 * low_density, 1.05 + 0.37 * low_density
    s2 = 2.86 * np.where(is_agn, 0.45, 0.30) * 10.0 ** rng.normal(0, 0.08, num)
    s3 = 0.35 * 10.0 ** rng.normal(0, 0.1, num)
    return {
        "OII_3726": o2 / (1.0 + oii), "OII_3729": o2 * oii / (1.0 + oii),
        "OIII_5007": o3, "OIII_4959": o3 / OIII_RATIO, "OIII_4363": 0.008 * o3, "NeIII_3869": 0.09 * o3,
        "NII_6584": n2, "NII_6548": n2 / NII_RATIO,
        "SII_6716": s2 * sii / (1.0 + sii), "SII_6731": s2 / (1.0 + sii),
        "OI_6300": np.where(is_agn, 0.35, 0.07), "HeI_5876": np.full(num, 0.12),
        "HeII_4686": np.where(is_agn, 0.2, 0.01), "SIII_9069": s3, "SIII_9531": 2.47 * s3,
    }  # fmt: skip


def attenuate(line_flux: FloatArray, ebv: FloatArray) -> FloatArray:
    """Dim line fluxes [B, M] by E(B-V) of the gas [B] with the curve of `calzetti`."""
    return line_flux * 10.0 ** (-0.4 * ebv[:, None] * calzetti(WAVES))
