"""Anomalies in prepared spectra: what each kind changes and what not, who can have it, and what a training learns of it."""

import logging

import numpy as np
import pytest

from engine.spectra.grid import WAVE_OBS
from engine.spectra.prepare import SpectrumPrep
from engine.synthetic.anomalies import KINDS
from engine.synthetic.injected import CHANGES, One, _changed, _moved, can_have, inject
from engine.train import kinds
from engine.train.kinds import Injected, confusion, fit_kinds
from models import MODELS
from models.scoring import density
from tests.smallmodels import small_config
from tests.stagedspectra import PREP

OBSERVED = SpectrumPrep()
MASKED = slice(40, 60)


def flat(rows: int, prep: SpectrumPrep, seed: int = 0) -> dict[str, np.ndarray]:
    """Flat spectra at redshift 0.1 with a masked stretch."""
    rng = np.random.default_rng(seed)
    ivar = np.full((rows, prep.num_pixels), 400, np.float32)
    ivar[:, MASKED] = 0
    flux = (1 + rng.normal(0, 0.05, ivar.shape)).astype(np.float32)
    spectype = np.array(["GALAXY", "QSO"], object)[np.arange(rows) % 2]
    return {"flux": flux * (ivar > 0), "ivar": ivar, "spectype": spectype, "z": np.full(rows, 0.1)}


@pytest.mark.parametrize("prep", [OBSERVED, PREP], ids=["observed", "rest"])
@pytest.mark.parametrize("kind", CHANGES)
def test_a_kind_changes_a_spectrum_and_leaves_what_is_unusable_so(kind: str, prep: SpectrumPrep) -> None:
    batch = flat(4, prep)
    one = _changed(batch, batch["z"], 0, kind, prep, np.random.default_rng(1))
    assert np.isfinite(one.flux).all()
    assert (one.ivar >= 0).all()
    if kind == "wrong_redshift":
        assert abs(one.z - 0.1) > 0.05 * 1.1
    else:
        assert one.z == 0.1
        assert (one.ivar[MASKED] == 0).all()
        differs = np.abs(one.flux - batch["flux"][0]) > 0.02
        assert differs[one.ivar > 0].any(), "it can be seen"
    if KINDS[kind].family == "artefact" and kind != "wrong_normalisation":
        np.testing.assert_array_equal(one.ivar, batch["ivar"][0], err_msg="the noise is not told")


def test_offset_is_of_one_camera_in_its_noise() -> None:
    batch = flat(1, OBSERVED)
    one = _changed(batch, batch["z"], 0, "arm_offset", OBSERVED, np.random.default_rng(3))
    step = one.flux - batch["flux"][0]
    moved = WAVE_OBS[step != 0]
    assert moved[-1] - moved[0] < 2400, "one camera"
    low, high = KINDS["arm_offset"].low * 0.05, KINDS["arm_offset"].high * 0.05
    assert low <= np.abs(step[step != 0]).min() <= np.abs(step).max() <= high + 1e-6


def test_noise_of_a_broad_pixel_is_told_for_one_of_the_common_grid() -> None:
    wave = np.arange(4000.0, 4400.0, 3.2)
    one = One(np.ones(len(wave)), np.full(len(wave), 100.0), wave, 0.0)
    np.testing.assert_allclose(one.noise, 0.2, rtol=1e-12)


def test_a_spectrum_of_the_rest_frame_moves_by_whole_pixels_to_where_the_redshift_puts_it() -> None:
    prep, true_z = PREP, 0.2
    line = np.zeros(prep.num_pixels)
    line[120] = 1
    one = One(line, np.ones(prep.num_pixels), prep.wave * (1 + true_z), 0.4)
    moved = _moved(one, true_z, prep)
    (place,) = np.flatnonzero(moved.flux)
    seen = prep.wave[120] * (1 + true_z)
    assert prep.wave[place] * (1 + moved.z) == pytest.approx(seen, rel=1e-12)
    assert moved.z == pytest.approx(0.4, abs=0.02), "as near as whole pixels come"
    assert (moved.ivar == 0).sum() == 120 - place, "nothing is known of what comes in at the end"


def test_who_can_have_what() -> None:
    assert can_have("supernova_bump", "GALAXY", 0.2)
    assert not can_have("supernova_bump", "GALAXY", 0.5), "too far"
    assert not can_have("supernova_bump", "QSO", 0.2)
    assert can_have("extreme_broad_lines", None, 1.0), "an unknown class may be any"
    assert not can_have("wrong_redshift", "GALAXY", np.nan)
    assert can_have("arm_offset", "STAR", np.nan)
    assert not can_have("blend", "STAR", 0.0)


def test_a_spectrum_is_not_blended_with_itself() -> None:
    batch = flat(2, OBSERVED)
    batch["flux"][1] += np.where(WAVE_OBS > 7000, 1, 0)
    for seed in range(6):  # half of these would draw the row itself
        one = _changed(batch, batch["z"], 0, "blend", OBSERVED, np.random.default_rng(seed))
        ratio = one.flux[WAVE_OBS > 7100].mean() / one.flux[WAVE_OBS < 6900].mean()
        assert ratio > 1.1, seed


def test_one_spectrum_alone_is_no_blend() -> None:
    for seed in range(40):
        assert "blend" not in inject(flat(1, OBSERVED), OBSERVED, np.random.default_rng(seed))["anomaly"]


def test_half_of_the_injected_are_artefacts_and_all_are_normalised_anew() -> None:
    batch = flat(400, PREP)
    batch["ivar"][7] = 0
    out = inject(batch, PREP, np.random.default_rng(5))
    assert len(out["flux"]) == 399, "nothing can be injected where nothing is usable"
    assert 0.4 < out["is_artefact"].mean() < 0.6
    assert set(out["anomaly"]) == set(CHANGES)
    assert out["flux"].dtype == out["ivar"].dtype == np.float32
    middle = [np.median(f[w > 0]) for f, w in zip(out["flux"], out["ivar"], strict=True)]
    np.testing.assert_allclose(middle, 1, atol=0.15)
    again = inject(batch, PREP, np.random.default_rng(5))
    np.testing.assert_array_equal(out["flux"], again["flux"])
    assert inject(flat(0, PREP), PREP, np.random.default_rng(5))["flux"].shape[0] == 0


def test_spectra_that_judge_do_not_teach_and_few_are_used_several_times() -> None:
    held_out = [flat(20, PREP) | {"targetid": np.arange(20) + 100 * number} for number in (0, 1)]

    def used(num_rows: int, is_judged: bool) -> list[int]:
        batches = Injected(held_out, PREP, num_rows, 0, is_judged)
        return [int(name) for batch in batches for name in batch["targetid"]]

    assert not set(used(100, True)) & set(used(100, False))
    assert len(used(70, False)) == 70
    assert len(used(10_000, False)) == 30 * kinds.MAX_PASSES
    assert used(33, False) == used(70, False)[:33]


@pytest.mark.parametrize("name", [name for name, spec in MODELS.items() if spec.fit_kinds])
def test_a_training_learns_what_the_instrument_made(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(density, "MAX_EPOCHS", 1)  # what the flows learn does not matter here
    spec = MODELS[name]
    config = small_config(spec)
    module = spec.build(config)
    reference, held_out = ([flat(150, PREP, seed) | {"targetid": np.arange(150)}] for seed in (1, 2))
    fitted = spec.fit(config, module, reference, held_out)
    device = next(module.parameters()).device
    assert np.isnan(spec.predictor(config, module, fitted, device)(held_out[0])["artefact_probability"]).all()
    arrays, table = fit_kinds(spec, config, module, fitted, held_out, PREP, 200, 0)
    guessed = spec.predictor(config, module, fitted | arrays, device)(held_out[0])["artefact_probability"]
    assert ((guessed >= 0) & (guessed <= 1)).all()
    assert sum(sum(row.values()) for row in table.values()) == 50, "every fourth judges"
    stars = [batch | {"spectype": np.full(150, "STAR", object)} for batch in held_out]
    with caplog.at_level(logging.WARNING):
        assert fit_kinds(spec, config, module, fitted, stars, PREP, 200, 0) == ({}, {})
    assert "0 physical anomalies are too few" in caplog.text


def test_confusion_counts_kinds() -> None:
    batch = {"anomaly": np.array(["blend", "blend", "arm_offset"], object)}
    probability = np.array([0.1, 0.9, 0.8])
    table = confusion(lambda _: {"artefact_probability": probability}, [batch])
    assert table == {
        "arm_offset": {"artefact": 1, "physical": 0},
        "blend": {"artefact": 1, "physical": 1},
    }
