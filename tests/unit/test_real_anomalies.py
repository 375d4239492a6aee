"""Oddities made of real spectra: each transformation does what it says, ranks are counted right, missing data is said."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.real_anomalies import __main__ as command
from benchmarks.real_anomalies import transformations as made
from benchmarks.real_anomalies.judges import Verdicts, real_components
from benchmarks.real_anomalies.oddities import ODDITIES
from benchmarks.real_anomalies.ranks import (
    Real,
    found_at_ten,
    paired_wins,
    separation,
    separation_of_sources,
    too_many,
)
from benchmarks.real_anomalies.spectra import as_sample, make_oddities, read_real
from engine.checkpoint import read_header
from engine.spectra.grid import NUM_PIXELS, WAVE_OBS
from engine.storage import Storage

RNG_SEED = 3


def make_spectrum(z: float = 0.1, spectype: str = "GALAXY", name: str = "1-1-0001") -> made.Spectrum:
    """Flat continuum with lines of 200 km/s at the places of H alpha, H beta and [OIII], noise of 0.05."""
    flux = np.ones(NUM_PIXELS)
    for wave in (6564.61, 4862.68, 5008.24, 4960.30):
        flux += 5 * np.exp(-0.5 * ((WAVE_OBS / (1 + z) - wave) / 3.5) ** 2)
    flux += 0.05 * np.random.default_rng(RNG_SEED).standard_normal(NUM_PIXELS)
    return made.Spectrum(name, flux, np.full(NUM_PIXELS, 400.0), z, spectype)


def near(wave: float, z: float, reach: float = 5.0) -> np.ndarray:
    return np.abs(WAVE_OBS / (1 + z) - wave) < reach


@pytest.mark.parametrize("kind", list(ODDITIES))
def test_each_transformation_changes_what_a_model_sees_and_stays_finite(kind: str) -> None:
    one, other = make_spectrum(0.9 if "absor" in kind else 0.1), make_spectrum(0.3, name="1-1-0002")
    out = ODDITIES[kind].make(one, other, np.random.default_rng(0))
    assert np.isfinite(out.flux).all()
    assert (out.ivar >= 0).all()
    assert np.isfinite(out.ivar).all()
    assert out.name == one.name
    if ODDITIES[kind].seen_by_redshift:
        np.testing.assert_array_equal(out.flux, one.flux)
        assert out.z != one.z
    elif kind not in (
        "sky_left",
        "broad_absorption",
        "damped_absorber",
    ):  # nothing to do here: no sky, no C IV, no forest
        assert np.max(np.abs(out.flux - one.flux) * np.sqrt(one.ivar)) > 1.9


def test_gain_of_a_camera_keeps_its_signal_to_noise() -> None:
    one = make_spectrum()
    out = made.red_scaled(one, None, np.random.default_rng(0))
    red = WAVE_OBS > made.DICHROIC_ANGSTROM
    np.testing.assert_allclose(out.flux[red], 1.5 * one.flux[red])
    np.testing.assert_array_equal(out.flux[~red], one.flux[~red])
    np.testing.assert_allclose(out.flux * np.sqrt(out.ivar), one.flux * np.sqrt(one.ivar))


def test_blend_adds_light_and_noise() -> None:
    one, other = make_spectrum(), make_spectrum(0.3)
    out = made.blend(one, other, np.random.default_rng(0))
    assert np.median(out.flux) == pytest.approx(2, rel=0.02)
    np.testing.assert_allclose(out.ivar, 200, rtol=0.02)


def test_lines_are_split_and_taken_away_where_the_redshift_puts_them() -> None:
    one = make_spectrum()
    two = made.double_peaked(one, None, np.random.default_rng(0))
    for part in (-300.0, 300.0):
        assert two.flux[near(6564.61 * (1 + part / 2.998e5), 0.1, 1.0)].max() > 2.5
    assert two.flux[near(6564.61, 0.1, 1.0)].mean() < 3
    gone = made.no_h_alpha(one, None, np.random.default_rng(0))
    assert gone.flux[near(6564.61, 0.1, 1.0)].max() < 0.5
    np.testing.assert_array_equal(gone.flux[near(5008.24, 0.1)], one.flux[near(5008.24, 0.1)])
    strong = made.oxygen_enhanced(one, None, np.random.default_rng(0))
    assert strong.flux[near(5008.24, 0.1)].max() == pytest.approx(31, rel=0.1)


def test_smoothing_gives_the_noise_back() -> None:
    for change in (made.broadened, made.without_lines):
        out = change(make_spectrum(), None, np.random.default_rng(0))
        far = (WAVE_OBS > 8300) & (WAVE_OBS < 9600)
        assert np.std(np.diff(out.flux[far])) == pytest.approx(0.05 * np.sqrt(2), rel=0.1)


def test_broad_absorption_lies_blueward_of_carbon_iv() -> None:
    one = make_spectrum(z=2.0)
    out = made.broad_absorption(one, None, np.random.default_rng(0))
    changed = WAVE_OBS[out.flux != one.flux]
    assert changed.max() < 1549.06 * 3 * (1 - 4900 / 2.998e5)
    assert changed.min() > 1549.06 * 3 * (1 - 18100 / 2.998e5)


def test_damping_width_gives_the_equivalent_width_of_the_damped_systems() -> None:
    # 10 Angstrom at rest for 2e20 atoms a cm2, from the curve of growth (Wolfe et al. 1986); of 1 - exp(-(w/x)^2)
    # it is 2 sqrt(pi) w.
    assert 2 * np.sqrt(np.pi) * made.damping_width(np.log10(2e20)) == pytest.approx(10.0, rel=0.05)


def columns(score_of_sources: np.ndarray) -> tuple[Real, np.ndarray]:
    """Ten galaxies, ten stars, and an oddity of each of the first and the last galaxy."""
    names = [f"g{i}" for i in range(10)] + [f"s{i}" for i in range(10)] + ["g0", "g9"]
    kind = np.array([""] * 20 + ["dusty"] * 2)
    spectype = np.array(["GALAXY"] * 10 + ["STAR"] * 10 + ["GALAXY"] * 2, object)
    real = Real({"anomaly": kind, "name": np.array(names), "spectype": spectype, "z": np.zeros(22)})
    return real, np.r_[np.arange(10.0), np.arange(100.0, 110.0), score_of_sources]


def test_oddities_are_compared_with_their_class_and_with_their_source() -> None:
    real, score = columns(np.array([9.5, 0.5]))
    assert separation(real, score, "dusty") == pytest.approx((10 + 1) / 20), "stars do not count"
    assert paired_wins(real, score, "dusty") == (1, 2)
    assert paired_wins(real, score, None) == (1, 2)
    assert separation_of_sources(real, score) == pytest.approx(8 / 36), "g9 beats 8 of 18"
    assert found_at_ten(real, score) == 0
    assert real.num_sources == 2


def test_false_alarms_are_counted_by_class() -> None:
    real, score = columns(np.zeros(2))
    verdicts = Verdicts(score, 104.5)
    assert too_many(real, verdicts, None) == pytest.approx(5 / 20)
    assert too_many(real, verdicts, "STAR") == pytest.approx(0.5)
    assert too_many(real, verdicts, "GALAXY") == 0


def test_components_of_the_real_find_the_one_that_is_unlike_the_others() -> None:
    rng = np.random.default_rng(1)
    shapes = np.stack([np.ones(NUM_PIXELS), WAVE_OBS / 6000, (WAVE_OBS / 6000) ** 2])
    spectra = [
        made.Spectrum(f"{i:03d}", rng.uniform(0.5, 2, 3) @ shapes, np.full(NUM_PIXELS, 400.0), 0.1, "GALAXY")
        for i in range(25)
    ]
    odd = made.dropout(spectra[4], None, rng)
    verdicts = real_components(as_sample([*spectra, odd], [""] * 25 + ["dropout"]))
    assert np.argmax(verdicts[""].score) == 25


def test_missing_data_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", str(tmp_path / "nowhere"), "--bases", str(tmp_path)]
    assert command.main(words) == 2
    assert "nowhere" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="--data"):
        read_real(tmp_path)


@pytest.mark.data
def test_the_list_can_be_made_of_the_real_spectra(shared_data: Path) -> None:
    spectra = read_real(shared_data / "sdss")
    assert len(spectra) > 100
    odd = make_oddities(spectra)
    assert len(odd) == sum(len(one.sources) for one in ODDITIES.values())
    by_name = {one.name: one for one in spectra}
    for kind, one in odd:
        assert (one.z != by_name[one.name].z) == ODDITIES[kind].seen_by_redshift
        assert np.isfinite(one.flux).all(), kind


@pytest.mark.parametrize(("judge", "name"), [("shipped", "desi"), ("shipped, rest frame", "rest")])
def test_scores_that_make_the_rank_of_each_shipped_checkpoint_are_among_the_details(
    judge: str, name: str
) -> None:
    parts = read_header(f"checkpoints/spectral_vae_{name}", Storage()).config["scoring"]["off_manifold"]
    assert {f"{judge}, {part}" for part in parts if not part.startswith("-")} <= {*command.DETAILED}
