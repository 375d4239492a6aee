"""Synthetic spectra against atomic physics, published relations, statistics, and real coadds."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

from engine.spectra.grid import CAMERA_SLICES, NUM_PIXELS, WAVE_OBS, WAVE_STEP_ANGSTROM
from engine.storage import Storage
from engine.synthetic import anomalies, galaxies, lines, noise, qsos, stars
from engine.synthetic.anomalies import KINDS
from engine.synthetic.noise import Observing
from engine.synthetic.population import draw
from engine.synthetic.profiles import add_observed_lines
from engine.synthetic.simulate import (
    R_BAND,
    SimulateConfig,
    add_second_objects,
    emit,
    render_galaxies,
    simulate,
)
from engine.synthetic.templates import load_bases

DARK = Observing(np.full(200, 1000.0), np.ones(200))


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def column(values: np.ndarray, name: str) -> np.ndarray:
    return values[:, lines.column(name)]


def test_doublets_have_the_ratios_of_atomic_physics():
    ratios = lines.ratios(seeded().uniform(7.8, 9.1, 500), seeded(1).uniform(size=500) < 0.3, seeded(2))
    np.testing.assert_allclose(column(ratios, "OIII_5007") / column(ratios, "OIII_4959"), 2.98)
    np.testing.assert_allclose(column(ratios, "NII_6584") / column(ratios, "NII_6548"), 2.95)
    oii = column(ratios, "OII_3729") / column(ratios, "OII_3726")
    assert oii.min() > 0.35  # limits of high and low density
    assert oii.max() < 1.5
    sii = column(ratios, "SII_6716") / column(ratios, "SII_6731")
    assert sii.min() > 0.43
    assert sii.max() < 1.45


def test_balmer_decrement_is_case_b_reddened_by_the_curve():
    params = galaxies.draw(seeded(), np.full(300, "BGS"), np.ones(300, bool))
    _, flux = galaxies.spectra(params)
    curve = dict(zip(lines.NAMES, lines.calzetti(lines.WAVES), strict=True))
    for name, case_b in (("Halpha", 2.86), ("Hgamma", 0.468), ("Hdelta", 0.259)):
        expected = case_b * 10 ** (0.4 * params.ebv * (curve["Hbeta"] - curve[name]))
        np.testing.assert_allclose(column(flux, name) / column(flux, "Hbeta"), expected, rtol=1e-9)
    assert (column(flux, "Halpha") / column(flux, "Hbeta")).max() > 3.2


def test_decrement_can_be_measured_in_the_observed_spectrum():
    flux = np.zeros((1, NUM_PIXELS))
    emitted = np.zeros((1, len(lines.NAMES)))
    emitted[0, lines.column("Halpha")], emitted[0, lines.column("Hbeta")] = 286.0, 100.0
    add_observed_lines(flux, lines.WAVES, emitted, np.array([90.0]), np.array([0.2]))
    found = [
        flux[0, np.abs(WAVE_OBS - lines.LINES[name] * 1.2) < 25].sum() * WAVE_STEP_ANGSTROM
        for name in ("Halpha", "Hbeta")
    ]
    np.testing.assert_allclose(found, [286.0, 100.0], rtol=1e-3)


def test_line_width_is_that_of_the_gas_and_the_instrument():
    flux = np.zeros((1, NUM_PIXELS))
    emitted = np.zeros((1, len(lines.NAMES)))
    emitted[0, lines.column("OIII_5007")] = 1.0
    add_observed_lines(flux, lines.WAVES, emitted, np.array([150.0]), np.array([0.4]))
    centre = (flux[0] * WAVE_OBS).sum() / flux[0].sum()
    sigma = np.sqrt((flux[0] * (WAVE_OBS - centre) ** 2).sum() / flux[0].sum())
    assert centre == pytest.approx(5008.24 * 1.4, abs=0.02)
    assert sigma == pytest.approx(np.hypot(5008.24 * 1.4 * 150 / 299792.458, 0.68), rel=2e-3)


def test_attenuation_curve_has_its_published_values():
    # Calzetti et al. (2000), Eq. 4 at 0.55 micron is R_V; the two branches meet at 0.63 micron.
    assert lines.calzetti(np.array(5500.0)) == pytest.approx(4.05, rel=0.01)
    below, above = lines.calzetti(np.array([6299.9, 6300.1]))
    assert below == pytest.approx(above, rel=0.01)
    assert lines.calzetti(np.array(1500.0)) == pytest.approx(10.33, rel=0.01)


def test_interpolated_attenuation_follows_the_curve():
    params = galaxies.draw(seeded(), np.full(60, "ELG"), np.zeros(60, bool))
    reddened, _ = galaxies.spectra(params)
    clear, _ = galaxies.spectra(replace(params, ebv=np.zeros(60)))
    wave = galaxies.GRID.wave
    expected = 10 ** (-0.4 * 0.44 * params.ebv[:, None] * lines.calzetti(wave))
    ratio = (reddened / clear / expected)[:, wave > 2000]
    assert np.abs(ratio - 1).max() < 0.02


def test_star_forming_gas_lies_below_the_maximum_starburst_line_and_agn_above():
    log_oh, is_agn = seeded().uniform(7.8, 9.1, 2000), seeded(1).uniform(size=2000) < 0.5
    ratios = lines.ratios(log_oh, is_agn, seeded(2))
    n2 = np.log10(column(ratios, "NII_6584") / column(ratios, "Halpha"))
    o3 = np.log10(column(ratios, "OIII_5007") / column(ratios, "Hbeta"))
    kewley = np.where(
        n2 < 0.47, 0.61 / np.minimum(n2 - 0.47, -1e-3) + 1.19, -9
    )  # Kewley et al. (2001), Eq. 5
    assert (o3[~is_agn] < kewley[~is_agn]).mean() > 0.97
    assert (o3[is_agn] > kewley[is_agn]).mean() > 0.9
    assert np.corrcoef(n2[~is_agn], log_oh[~is_agn])[0, 1] > 0.9


def test_old_galaxies_have_the_stronger_break_and_young_ones_the_bluer_continuum():
    kinds = np.repeat(["LRG", "ELG"], 100)
    rest, _ = galaxies.spectra(galaxies.draw(seeded(), kinds, np.zeros(200, bool)))
    wave = galaxies.GRID.wave

    def mean(low: float, high: float) -> np.ndarray:
        return rest[:, (wave > low) & (wave < high)].mean(axis=1)

    # D4000 of Balogh et al. (1999), f_nu; observed: 1.7 to 2 in red galaxies, 1.0 to 1.4 in young ones.
    d4000 = mean(4000, 4100) / mean(3850, 3950) * (4050 / 3900) ** 2
    assert 1.5 < np.median(d4000[:100]) < 2.2
    assert 0.95 < np.median(d4000[100:]) < 1.45
    colour = mean(2600, 2900) / mean(4500, 4700)
    assert np.median(colour[100:]) > 3 * np.median(colour[:100])


def test_dispersion_smears_absorption():
    params = galaxies.draw(seeded(), np.full(2, "LRG"), np.zeros(2, bool))
    rows = {name: np.repeat(getattr(params, name)[:1], 2, axis=0) for name in params.__dataclass_fields__}
    rest, _ = galaxies.spectra(galaxies.GalaxyParams(**(rows | {"sigma_kms": np.array([60.0, 320.0])})))
    wave = galaxies.GRID.wave
    near = (wave > 5150) & (wave < 5210)  # Mg b
    assert rest[1, near].min() > rest[0, near].min() * 1.03
    np.testing.assert_allclose(rest[0].mean(), rest[1].mean(), rtol=1e-3)


def test_stars_show_what_their_class_is_known_for():
    wave = stars.GRID.wave
    weak = stars.weak_lines(wave)
    hot, sun, cool = (stars.stellar_spectrum(wave, t, 1.0, weak) for t in (9500.0, 5800.0, 3300.0))

    def depth(flux: np.ndarray, centre: float, width: float) -> float:
        beside = (np.abs(wave - centre) > 3 * width) & (np.abs(wave - centre) < 8 * width)
        return 1 - flux[np.abs(wave - centre) < width].mean() / flux[beside].mean()

    assert depth(hot, 4862.7, 6) > 2 * depth(sun, 4862.7, 6) > 0
    assert depth(sun, 3934.8, 6) > 3 * depth(hot, 3934.8, 6)
    assert cool[(wave > 7060) & (wave < 7120)].mean() < 0.75 * cool[(wave > 7000) & (wave < 7045)].mean()
    assert stars.blackbody(np.array(6400.0), 5000.0) == pytest.approx(1.0)
    # Wien: the maximum of B_lambda at 5800 K lies at 4996 Angstrom.
    fine = np.linspace(4000, 6000, 20001)
    assert fine[stars.blackbody(fine, 5800.0).argmax()] == pytest.approx(2.897772e7 / 5800, abs=1)


def test_forest_has_the_measured_mean_transmission():
    z = np.full(300, 3.2)
    flux = np.ones((300, NUM_PIXELS), np.float32)
    qsos.absorb_forest(flux, z, seeded())
    for z_gas in (2.4, 2.8, 3.05):
        near = np.abs(WAVE_OBS / 1215.67 - 1 - z_gas) < 0.03
        expected = np.exp(-0.0018 * (1 + z_gas) ** 3.92)
        assert flux[:, near].mean() == pytest.approx(expected, rel=0.08)
    assert (flux[:, WAVE_OBS > 1215.67 * 4.2] == 1).all()


def test_brighter_quasars_have_weaker_lines():
    z = np.full(2000, 1.8)
    bright, faint = (qsos.draw(seeded(1), z, np.full(2000, mag)) for mag in (17.5, 22.5))
    ratio = np.median(np.log10(bright.strength / faint.strength))
    assert ratio == pytest.approx(-0.18 * 2.0, abs=0.02)  # EW ~ L^-0.18 over 5 mag


def test_noise_is_what_the_inverse_variance_says():
    spectra = simulate(300, 4, keep_arms=True, keep_noiseless=True)
    for camera, where in CAMERA_SLICES.items():
        ivar = spectra.arms.ivar[camera]
        pull = (spectra.arms.flux[camera] - spectra.noiseless[:, where]) * np.sqrt(ivar)
        check_standard_normal(pull[ivar > 0])
    check_standard_normal(((spectra.flux - spectra.noiseless) * np.sqrt(spectra.ivar))[spectra.ivar > 0])


def check_standard_normal(pull: np.ndarray) -> None:
    assert abs(pull.mean()) < 5 / np.sqrt(pull.size)
    assert pull.std() == pytest.approx(1.0, abs=5 / np.sqrt(2 * pull.size))
    assert (np.abs(pull) > 3).mean() == pytest.approx(0.0027, rel=0.1)


def test_overlapping_pixels_are_measured_twice_independently():
    arms = noise.observe(np.zeros((200, NUM_PIXELS), np.float32), DARK, seeded())
    b, r = (arms.flux[c] * np.sqrt(arms.ivar[c]) for c in "br")
    both = slice(2700, 2751)
    assert abs(np.corrcoef(b[:, both].ravel(), r[:, : 2751 - 2700].ravel())[0, 1]) < 0.04


def test_variance_grows_with_sky_object_and_falls_with_time():
    blank = np.zeros((1, 2326), np.float32)
    short, long = Observing(np.array([1000.0]), np.ones(1)), Observing(np.array([4000.0]), np.ones(1))
    moon = Observing(np.array([1000.0]), np.array([3.0]))
    base = noise.variance(blank, "r", short)
    np.testing.assert_allclose(noise.variance(blank, "r", long), base / 4, rtol=1e-5)
    between = slice(None), slice(1000, 1010)
    grown = noise.variance(blank, "r", moon) / base
    assert grown[between].max() < 3
    assert grown.max() == pytest.approx(3, rel=0.2)  # sky lines have no read noise
    bright = noise.variance(blank + 10, "r", short) - base
    np.testing.assert_allclose(noise.variance(blank + 20, "r", short) - base, 2 * bright, rtol=1e-3)
    np.testing.assert_array_equal(noise.variance(blank - 5, "r", short), base)


def test_sky_lines_crowd_in_the_red():
    count = {c: (noise.sky_line_pattern(c) > 1.2).sum() for c in "brz"}
    assert count["b"] < count["r"] < count["z"]
    pattern, wave = noise.sky_line_pattern("b"), WAVE_OBS[CAMERA_SLICES["b"]]
    assert abs(wave[pattern.argmax()] - 5578.9) < 1


@pytest.mark.data
def test_noise_is_that_of_real_coadds(shared_data):
    path = shared_data / "desi" / "specutils" / "coadd-sv3-dark-26065.fits"
    with fits.open(path) as hdus:
        row = int(np.flatnonzero(hdus["FIBERMAP"].data["COADD_EXPTIME"] > 0)[0])
        observing = Observing(hdus["FIBERMAP"].data["COADD_EXPTIME"][[row]].astype(float), np.ones(1))
        for camera in "brz":
            flux = hdus[f"{camera.upper()}_FLUX"].data[row].astype(np.float32)
            real = hdus[f"{camera.upper()}_IVAR"].data[row]
            ours = 1 / noise.variance(flux[None], camera, observing)[0]
            good = real > 0
            ratio = np.sqrt(real[good] / ours[good])
            assert 0.8 < np.median(ratio) < 1.25
            low, high = np.percentile(ratio, [10, 90])
            assert high / low < 1.8  # shape, sky lines too


ARTEFACTS = [kind for kind, facts in KINDS.items() if facts.family == "artefact"]


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_artefact_is_well_above_the_noise_even_at_its_weakest(kind):
    config = SimulateConfig(anomaly_fraction=1.0, anomaly_kinds=(kind,))
    objects = draw(100, config, seeded())
    noiseless, _ = emit(objects, None, seeded(1))
    before = noise.observe(noiseless, objects.observing, seeded(2))
    after = noise.observe(noiseless, objects.observing, seeded(2))
    anomalies.spoil(after, objects.anomaly, np.full(100, KINDS[kind].low), seeded(3))
    change = sum(np.sum((after.flux[c] - before.flux[c]) ** 2 * before.ivar[c], axis=1) for c in "brz")
    assert np.quantile(change, 0.05) > 100  # delta chi2
    untouched = sum((after.flux[c] == before.flux[c]).all(axis=1).astype(int) for c in "brz")
    assert (untouched == (1 if kind == "sky_residual" else 2)).all()
    for camera in "brz":
        np.testing.assert_array_equal(after.mask[camera], before.mask[camera])
        if kind != "wrong_normalisation":
            np.testing.assert_array_equal(after.ivar[camera], before.ivar[camera])


@pytest.mark.parametrize("kind", ["double_peaked_lines", "odd_line_ratios"])
def test_odd_lines_are_well_above_the_noise_even_at_their_weakest(kind):
    objects = draw(100, SimulateConfig(anomaly_fraction=1.0, anomaly_kinds=(kind,)), seeded())
    params = galaxies.draw(seeded(1), objects.target, np.ones(100, bool))
    odd = anomalies.alter_galaxies(params, objects.anomaly, np.full(100, KINDS[kind].low), seeded(2))
    plain = replace(params, ebv=odd.ebv)
    scale = 2.66e8 * 10 ** (-0.4 * objects.rmag)
    pair = [render_galaxies(p, objects.z) for p in (plain, odd)]
    scale = (scale / pair[0][:, R_BAND].mean(axis=1))[:, None].astype(np.float32)
    assert np.median(delta_chi2(pair[0] * scale, pair[1] * scale, objects.observing)) > 100


def test_double_peaked_lines_have_two_peaks_at_their_separation():
    params = galaxies.draw(seeded(), np.full(1, "BGS"), np.ones(1, bool))
    odd = anomalies.alter_galaxies(params, np.array(["double_peaked_lines"]), np.array([600.0]), seeded())
    z = np.array([0.2])
    dark = replace(odd, hbeta_ew=np.zeros(1))
    emission = (render_galaxies(odd, z) - render_galaxies(dark, z))[0]
    velocity = (WAVE_OBS / (lines.LINES["OIII_5007"] * 1.2) - 1) * 299792.458
    left, right = ((np.abs(velocity - v) < 150) for v in (-300, 300))
    peaks = [velocity[side][emission[side].argmax()] for side in (left, right)]
    assert peaks[1] - peaks[0] == pytest.approx(600, abs=60)
    assert emission[np.abs(velocity).argmin()] < 0.5 * emission[left].max()


@pytest.mark.parametrize("kind", ["blend", "supernova_bump"])
def test_second_objects_are_well_above_the_noise_even_at_their_weakest(kind):
    config = SimulateConfig(anomaly_fraction=1.0, anomaly_kinds=(kind,))
    objects = draw(60, config, seeded())
    objects = replace(objects, strength=np.full(60, KINDS[kind].low))
    before, _ = emit(objects, None, seeded(1))
    after = before.copy()
    add_second_objects(after, objects, config, seeded(2))
    added = after[:, R_BAND].mean(axis=1) / before[:, R_BAND].mean(axis=1) - 1
    np.testing.assert_allclose(added, KINDS[kind].low, rtol=1e-3)
    # Brightness alone is no anomaly: compare at equal brightness.
    assert np.median(delta_chi2(after, before * (1 + added)[:, None], objects.observing)) > 300


def test_extreme_lines_are_broad_and_keep_their_flux():
    z, rmag = np.full(50, 1.8), np.full(50, 20.0)
    params = qsos.draw(seeded(), z, rmag)
    broad = anomalies.alter_qsos(params, np.full(50, "extreme_broad_lines"), np.full(50, 20000.0))
    plain, wide = (qsos.spectra(replace(p, bal_kms=np.zeros((50, 2))), z)[0] for p in (params, broad))
    near = np.abs(qsos.GRID.wave - 2799) < 12
    assert (wide[:, near].mean(axis=1) < plain[:, near].mean(axis=1)).all()
    everywhere = (qsos.GRID.wave > 1700) & (qsos.GRID.wave < 3300)
    np.testing.assert_allclose(wide[:, everywhere].mean(1), plain[:, everywhere].mean(1), rtol=0.05)


def delta_chi2(first: np.ndarray, second: np.ndarray, observing: Observing) -> np.ndarray:
    """Difference of two noiseless sets in units of the noise, all cameras."""
    return sum(
        np.sum((first[:, w] - second[:, w]) ** 2 / noise.variance(first[:, w], camera, observing), axis=1)
        for camera, w in CAMERA_SLICES.items()
    )


@pytest.mark.data
def test_galaxies_have_the_breaks_and_colours_of_real_ones(shared_data):
    real = load_bases(str(shared_data / "templates"), Storage()).table["GALAXY"]  # from red to blue
    kinds = np.repeat(["LRG", "ELG"], 150)
    ours, _ = galaxies.spectra(galaxies.draw(seeded(), kinds, np.zeros(300, bool)))
    third = len(real.coefficients) // 3
    pairs = [(ours[:150], real.coefficients[:third]), (ours[150:], real.coefficients[-third:])]
    for mine, coefficients in pairs:
        theirs = coefficients @ real.vectors
        for blue, red in (((3850, 3950), (4000, 4100)), ((5000, 5400), (7000, 7400))):
            found, expected = (
                np.median(window_mean(flux, grid.wave, *red) / window_mean(flux, grid.wave, *blue))
                for flux, grid in ((mine, galaxies.GRID), (theirs, real.grid))
            )
            assert found == pytest.approx(expected, rel=0.25)


def window_mean(flux: np.ndarray, wave: np.ndarray, low: float, high: float) -> np.ndarray:
    return flux[:, (wave > low) & (wave < high)].mean(axis=1)
