"""What `simulate` promises: seeds, shapes, mix, anomalies where they belong."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from engine.spectra.coadd import merge_arms
from engine.spectra.grid import CAMERA_SLICES, NUM_PIXELS
from engine.synthetic.anomalies import KINDS
from engine.synthetic.population import BRIGHT_SHARE, TARGETS
from engine.synthetic.profiles import LogGrid, add_gaussians, interpolation_weights, to_observed
from engine.synthetic.simulate import CHUNK_ROWS, SimulateConfig, simulate

EVERY_SECOND = SimulateConfig(anomaly_fraction=0.5)


@pytest.fixture(scope="module")
def many():
    return simulate(600, 11, EVERY_SECOND, keep_arms=True, keep_noiseless=True)


@pytest.mark.parametrize("num", [0, 1, 3, CHUNK_ROWS + 1])
def test_any_number_of_spectra(num):
    spectra = simulate(num, 1, EVERY_SECOND)
    assert spectra.flux.shape == spectra.ivar.shape == (num, NUM_PIXELS)
    assert spectra.flux.dtype == spectra.ivar.dtype == np.float32
    for values in (spectra.z, spectra.spectype, spectra.subtype, spectra.anomaly, spectra.snr, spectra.rmag):
        assert len(values) == num
    assert spectra.arms is None
    assert spectra.noiseless is None


def test_same_seed_gives_same_spectra_and_others_differ():
    first, again, other = (simulate(150, seed, EVERY_SECOND) for seed in ((3, 4), (3, 4), (3, 5)))
    np.testing.assert_array_equal(first.flux, again.flux)
    np.testing.assert_array_equal(first.ivar, again.ivar)
    np.testing.assert_array_equal(first.anomaly, again.anomaly)
    assert not np.array_equal(first.flux, other.flux)


def test_what_is_kept_does_not_change_what_is_drawn():
    plain, full = simulate(5, 8), simulate(5, 8, keep_arms=True, keep_noiseless=True)
    np.testing.assert_array_equal(plain.flux, full.flux)


def test_everything_is_finite_and_ivar_is_not_negative(many):
    assert np.isfinite(many.flux).all()
    assert np.isfinite(many.ivar).all()
    assert (many.ivar >= 0).all()
    assert (many.ivar > 0).mean() > 0.995
    assert (many.noiseless >= -1e-6).all()


def test_merged_spectra_are_the_merged_arms(many):
    flux, ivar = merge_arms(many.arms.flux, many.arms.ivar, many.arms.mask)
    np.testing.assert_array_equal(flux, many.flux)
    np.testing.assert_array_equal(ivar, many.ivar)
    for camera, where in CAMERA_SLICES.items():
        assert many.arms.flux[camera].shape == (600, where.stop - where.start)


def test_masked_pixels_have_no_weight_and_a_wild_flux(many):
    mask, ivar = many.arms.mask["r"], many.arms.ivar["r"]
    assert mask.dtype == np.int32
    np.testing.assert_array_equal(mask != 0, ivar == 0)
    assert 0 < (mask != 0).sum() < 5 * len(mask)
    off = many.arms.flux["r"] - many.noiseless[:, CAMERA_SLICES["r"]]
    assert np.median(off[(mask != 0) & (many.anomaly == "")[:, None]]) > 5


def test_classes_come_in_their_fractions():
    config = SimulateConfig()
    target = simulate(3000, 5, config).truth.target
    for name, fraction in zip(TARGETS, config.target_fractions(), strict=True):
        expected = np.sqrt(fraction * (1 - fraction) / 3000)
        assert abs((target == name).mean() - fraction) < 4 * expected


@pytest.mark.parametrize("program", ["bright", "dark"])
def test_programs_hold_their_classes_only(program):
    target = simulate(200, 2, SimulateConfig(program=program, anomaly_fraction=0.5)).truth.target
    allowed = {name for name in TARGETS if BRIGHT_SHARE[name] != (0.0 if program == "bright" else 1.0)}
    assert set(target) <= allowed


def test_without_anomalies_there_are_none():
    assert set(simulate(50, 1).anomaly) == {""}


def test_anomalies_are_of_all_kinds_in_range_and_on_able_objects(many):
    assert set(many.anomaly) == {"", *KINDS}
    assert abs((many.anomaly != "").mean() - 0.5) < 0.08
    for kind, facts in KINDS.items():
        rows = many.anomaly == kind
        assert set(many.truth.target[rows]) <= set(facts.targets)
        assert (many.z[rows] <= facts.z_max).all()
        assert ((facts.low <= many.strength[rows]) & (many.strength[rows] <= facts.high)).all()
    assert (many.strength[many.anomaly == ""] == 0).all()


def test_only_a_wrong_redshift_is_reported_wrong(many):
    off = np.abs(many.truth.z_reported - many.z) / (1 + many.z)
    wrong = many.anomaly == "wrong_redshift"
    np.testing.assert_allclose(off[wrong], many.strength[wrong], atol=1e-3)
    assert off[~wrong].max() < 5e-4
    assert many.truth.z_reported.min() > -0.01


def test_classes_and_subtypes_are_redrocks(many):
    assert set(many.spectype) == {"GALAXY", "QSO", "STAR"}
    assert set(many.subtype[many.spectype == "STAR"]) <= {"A", "F", "G", "K", "M", "WD"}
    assert set(many.subtype[many.spectype == "QSO"]) == {"LOZ", "HIZ"}
    assert (np.abs(many.z[many.spectype == "STAR"]) < 0.003).all()


def test_magnitude_is_that_of_the_spectrum_before_second_objects(many):
    rows = ~np.isin(many.anomaly, ["blend", "supernova_bump"])
    mean = many.noiseless[rows, 2625:4375].mean(axis=1)
    np.testing.assert_allclose(-2.5 * np.log10(mean / 2.66e8), many.rmag[rows], atol=0.02)


def test_physics_needs_nothing_but_numpy():
    code = (
        "import sys; import engine.synthetic.simulate;"
        "bad = {'astropy', 'ray', 'pyarrow', 'torch', 'scipy', 'pydantic'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_configuration_travels():
    assert pickle.loads(pickle.dumps(EVERY_SECOND)) == EVERY_SECOND


def test_lines_keep_their_flux_and_are_cut_at_the_edges():
    flux = np.zeros((3, 200))
    centre, sigma = np.array([[100.3], [0.0], [-50.0]]), np.full((3, 1), 2.0)
    add_gaussians(flux, centre, sigma, np.ones((3, 1)))
    area = 2.0 * np.sqrt(2 * np.pi)
    assert flux[0].sum() == pytest.approx(area, rel=1e-4)
    assert flux[1].sum() == pytest.approx(0.5 * (area + 1), rel=1e-3)
    assert flux[2].sum() == 0


def test_a_line_of_no_height_is_not_added():
    flux = np.zeros((1, 50))
    add_gaussians(flux, np.array([[25.0]]), np.array([[2.0]]), np.zeros((1, 1)))
    assert not flux.any()


def test_redshift_moves_a_feature_to_its_wavelength():
    from engine.spectra.grid import WAVE_OBS

    grid = LogGrid(1500.0, 9900.0)
    rest = np.exp(-0.5 * np.square((grid.wave - 4000.0) / 8.0))[None].repeat(3, 0).astype(np.float32)
    z = np.array([0.0, 0.3, 1.2])
    observed = to_observed(rest, grid, z)
    weight = np.where(observed > 0.01, observed, 0)
    centroid = (weight * WAVE_OBS).sum(1) / weight.sum(1)
    np.testing.assert_allclose(centroid, 4000.0 * (1 + z), atol=0.1)
    assert observed.max(axis=1) == pytest.approx(1.0, abs=5e-3)


def test_interpolation_weights_reproduce_a_line_and_clip():
    nodes = np.array([0.0, 1.0, 4.0])
    weights = interpolation_weights(np.array([-1.0, 0.25, 2.5, 9.0]), nodes)
    np.testing.assert_allclose(weights @ nodes, [0.0, 0.25, 2.5, 4.0], atol=1e-6)
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-6)
