"""Scores of predicted bands with a prediction that is known, and the columns that come out."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import stats

from engine.checkpoint import Checkpoint, save
from engine.flags import BEYOND_CALIBRATION, CLASS_FALLBACK, NOT_SCORED
from engine.infer import InferStage, model_config
from engine.schema import list_array, to_arrays
from engine.stage import UnitTable, rejected_table
from engine.storage import Storage
from engine.train.epochs import module_weights, run_epoch
from engine.train.plan import EpochPlan
from models.band_gan import SPEC
from models.band_gan_config import NOISE_NJY, BandGANConfig
from models.scoring.band_columns import SCORES, BandScoringConfig, columns
from models.scoring.band_scores import fit, predictor
from models.scoring.band_sums import Prediction, Scorer
from models.scoring.cutouts import BANDS, LW_BANDS, Cutouts, cutouts
from tests.cutouts import by_band, hide_band, make_cutouts, swap_bands

CPU = torch.device("cpu")
S = 24
SCATTER = 0.1
"""Of the LW flux of a whole object about its prediction."""
CONFIG = BandScoringConfig(
    aperture_radius_arcsec=0.25, num_latent=2, num_neighbours=5, num_reference=300, min_class_rows=100,
    snr_edges=(30.0, 100.0), batch_rows=500,
)  # fmt: skip


def predict(inputs: Cutouts) -> Prediction:
    """LW bands are the mean of the SW bands, known to 10 %."""
    flux = inputs.science.mean(1, keepdim=True).expand_as(inputs.science)
    features = torch.stack([flux.sum((1, 2, 3)).abs().add(1).log(), flux[:, 0, 0, 0], flux[:, 0, 0, 1]], 1)
    return Prediction(flux, SCATTER * flux.abs(), features)


def objects(rows: int, seed: int, coherent: bool = True) -> dict[str, np.ndarray]:
    """Noiseless SW bands; LW bands with the scatter that `predict` states, and noise that grows with the band."""
    rng = np.random.default_rng(seed)
    batch = make_cutouts(rows, S, seed, noise=1e-6)
    batch["mask"][:] = False
    images = by_band(batch["science"], S)
    images[:] = np.abs(images[:, :1]) + 1e-6
    shape = (rows, 3, 1, 1) if coherent else (rows, 3, S, S)
    sigma = np.array(NOISE_NJY, np.float32)[None, :, None, None] * np.ones_like(images)
    images[:, 3:] *= 1 + SCATTER * rng.normal(size=shape)
    images[:, 3:] += (sigma * rng.normal(size=images.shape))[:, 3:]
    batch["error"] = sigma.reshape(rows, -1)
    return batch


@pytest.fixture(scope="module")
def fitted() -> dict[str, np.ndarray]:
    return fit(Scorer(CONFIG, S, predict, CPU), [objects(400, 1)], [objects(1500, 2)], 1)


@pytest.fixture(scope="module")
def normals(fitted) -> dict[str, np.ndarray]:
    return predictor(Scorer(CONFIG, S, predict, CPU), fitted, 1)(objects(1500, 3))


def scores(fitted, batch) -> dict[str, np.ndarray]:
    return predictor(Scorer(CONFIG, S, predict, CPU), fitted, 1)(batch)


def test_predicted_error_covers_what_pixels_have_in_common(fitted, normals) -> None:
    assert (fitted["coherence"] > 0.8).all()
    independent = fit(
        Scorer(CONFIG, S, predict, CPU), [objects(400, 1)], [objects(1500, 2, coherent=False)], 1
    )
    assert (independent["coherence"] < 0.05).all()
    for band in LW_BANDS:
        assert stats.kstest(normals[f"flux_residual_sigma_{band}"], "norm").pvalue > 1e-3


def test_p_values_of_normal_objects_are_uniform_at_every_signal_to_noise(normals) -> None:
    assert len(normals["input_snr"]) == 1500
    for name in ("aperture_chi2", "reduced_chi2", "m_residual", "latent_distance"):
        for low, high in ((0, 30), (30, 100), (100, np.inf)):
            rows = (normals["input_snr"] >= low) & (normals["input_snr"] < high)
            assert rows.sum() > 150
            uniform = normals[f"{name}_percentile"][rows] / 100
            np.testing.assert_allclose(normals[f"{name}_p_value"][rows], 1 - uniform, atol=0.005)
            # Of two samples of one size (the other was calibrated with): exceeded with a probability of 1e-3.
            limit = 1.95 * np.sqrt(2 / rows.sum())
            assert stats.kstest(uniform, "uniform").statistic < limit, (name, low)


def test_scores_are_what_their_columns_say(fitted) -> None:
    batch = objects(20, 4)
    out = scores(fitted, batch)
    for i, band in enumerate(LW_BANDS):
        flux, predicted = out[f"flux_{band}"], out[f"flux_predicted_{band}"]
        error = np.hypot(out[f"flux_error_{band}"], out[f"flux_predicted_error_{band}"])
        np.testing.assert_allclose(
            out[f"flux_residual_sigma_{band}"], (flux - predicted) / error, rtol=1e-3, atol=1e-4
        )
        bright = (flux > 100 * out[f"flux_error_{band}"]) & (predicted > 100 * out[f"flux_error_{band}"])
        wanted = -2.5 * np.log10(flux[bright] / predicted[bright])
        np.testing.assert_allclose(out[f"mag_residual_{band}"][bright], wanted, atol=1e-3)
        mean = by_band(batch["science"], S)[:, :3].mean(1)
        residual = by_band(batch["science"], S)[:, 3 + i] - mean
        variance = NOISE_NJY[3 + i] ** 2 + (SCATTER * mean) ** 2
        chi2 = (residual**2 / variance).mean((1, 2))
        np.testing.assert_allclose(out[f"reduced_chi2_{band}"], chi2, rtol=1e-3)
        low, high = fitted["m_bounds"][i]
        m = (np.abs(residual).sum((1, 2)) - low) / (high - low)
        np.testing.assert_allclose(out[f"m_residual_{band}"], m, rtol=1e-3)
    sigma = np.stack([out[f"flux_residual_sigma_{band}"] for band in LW_BANDS])
    np.testing.assert_allclose(out["aperture_chi2"], (sigma**2).mean(0), rtol=1e-4)
    snr = np.stack([out[f"flux_{b}"] / out[f"flux_error_{b}"] for b in BANDS[:3]])
    np.testing.assert_allclose(out["input_snr"], np.sqrt((snr**2).sum(0)), rtol=1e-4)
    np.testing.assert_array_equal(
        out["anomaly_score"], np.fmax(out["on_manifold_score"], out["off_manifold_score"])
    )


def test_a_band_brighter_than_predicted_is_found_and_named(fitted) -> None:
    batch = objects(200, 5)
    brightest = int(by_band(batch["science"], S)[:, 0].sum((1, 2)).argmax())
    by_band(batch["science"], S)[brightest, 4] *= 3
    out = scores(fitted, batch)
    assert out["off_manifold_score"].argmax() == brightest
    assert out["off_manifold_score"][brightest] > 3
    assert out["worst_wave"][brightest] == pytest.approx(3.563)
    assert out["score_f356w"][brightest] > max(out[f"score_{b}"][brightest] for b in ("f277w", "f444w"))
    assert out["mag_residual_f356w"][brightest] == pytest.approx(-2.5 * np.log10(3), abs=0.5)
    assert out["flags"][brightest] & BEYOND_CALIBRATION.value


def test_object_without_an_input_band_is_not_scored(fitted) -> None:
    batch = objects(30, 6)
    wanted = scores(fitted, batch)
    hide_band(batch, 7, S, 1)
    out = scores(fitted, batch)
    assert out["flags"][7] == NOT_SCORED.value
    measured = {f"{kind}_{b}" for kind in ("flux", "flux_error") for b in BANDS if b != "f150w"}
    for name, values in out.items():
        if name != "flags" and name not in measured:
            assert np.isnan(values[7]).all(), name
        np.testing.assert_allclose(np.delete(values, 7, 0), np.delete(wanted[name], 7, 0), rtol=1e-5)
    assert all(np.isfinite(out[name][7]) for name in measured)


def test_object_without_one_output_band_is_scored_in_the_others(fitted) -> None:
    batch = objects(30, 6)
    wanted = scores(fitted, batch)
    hide_band(batch, 7, S, 4)
    out = scores(fitted, batch)
    assert not out["flags"][7] & NOT_SCORED.value
    for name, values in out.items():
        if name.endswith("f356w"):
            assert np.isnan(values[7]), name
        elif name.endswith(("f277w", "f444w", "f115w")) or name == "latent_mean":
            np.testing.assert_allclose(values[7], wanted[name][7], rtol=1e-5, err_msg=name)
        else:
            assert np.isfinite(values[7]), name
    both = [out[f"flux_residual_sigma_{band}"][7] ** 2 for band in ("f277w", "f444w")]
    assert out["aperture_chi2"][7] == pytest.approx(np.mean(both), rel=1e-4)


def test_half_covered_aperture_still_counts_and_less_does_not(fitted) -> None:
    batch = objects(2, 6)
    for row, first in ((0, S // 2 + 2), (1, S // 2 - 2)):
        by_band(batch["mask"], S)[row, 0, :, first:] = True
    assert list(scores(fitted, batch)["flags"] & NOT_SCORED.value > 0) == [False, True]


def test_pixels_that_one_input_band_lacks_are_not_compared(fitted) -> None:
    """A part of a neighbour that no input shows makes no object strange."""
    batch, wanted = objects(3, 8), objects(3, 8)
    corner = np.s_[1, :, : S // 4, : S // 4]
    by_band(batch["science"], S)[corner] += 1e4
    by_band(wanted["mask"], S)[corner] = True
    by_band(batch["mask"], S)[1, 1, : S // 4, : S // 4] = True
    out, known = scores(fitted, batch), scores(fitted, wanted)
    for name in ("reduced_chi2", "m_residual", "aperture_chi2", "off_manifold_score"):
        np.testing.assert_allclose(out[name], known[name], rtol=1e-4, err_msg=name)


def test_input_bands_that_leave_less_than_half_of_the_aperture_together_give_no_score(fitted) -> None:
    batch = objects(2, 6)
    by_band(batch["mask"], S)[0, 0, :, S // 2 + 1 :] = True
    by_band(batch["mask"], S)[0, 1, :, : S // 2 - 1] = True
    out = scores(fitted, batch)
    assert np.isnan(out["aperture_chi2"]).tolist() == [True, False]
    assert np.isnan(out["flux_predicted_f444w"]).tolist() == [True, False]
    assert not np.isnan(out["flux_f444w"]).any()


def test_bad_pixels_without_a_mask_are_not_used(fitted) -> None:
    batch = objects(3, 8)
    wanted = objects(3, 8)
    place = (1, 4, S // 2, S // 2)
    by_band(wanted["mask"], S)[place] = True
    by_band(batch["science"], S)[place] = np.nan
    out, known = scores(fitted, batch), scores(fitted, wanted)
    for name, values in out.items():
        np.testing.assert_array_equal(values, known[name], err_msg=name)


def test_class_of_signal_to_noise_with_few_rows_falls_back_to_all() -> None:
    config = dataclasses.replace(CONFIG, snr_edges=(1e6,))
    scorer = Scorer(config, S, predict, CPU)
    found = fit(scorer, [objects(100, 1)], [objects(300, 2)], 1)
    batch = objects(2, 3)
    by_band(batch["science"], S)[1] *= 1e7
    out = predictor(scorer, found, 1)(batch)
    assert list(out["flags"] & CLASS_FALLBACK.value > 0) == [False, True]


def test_images_are_written_if_asked_for(fitted) -> None:
    config = dataclasses.replace(CONFIG, write_predicted=True, write_residual=True)
    batch = objects(4, 9)
    hide_band(batch, 2, S, 5)
    hide_band(batch, 3, S, 0)
    out = predictor(Scorer(config, S, predict, CPU), fitted, 1)(batch)
    declared = {column.name: column for column in columns(config, S)}
    assert (
        declared["predicted"].length == declared["residual"].length == out["predicted"].shape[1] == 3 * S * S
    )
    assert declared["predicted"].unit == "nJy"
    images = by_band(batch["science"], S)
    predicted = out["predicted"].reshape(4, 3, S, S)
    np.testing.assert_allclose(predicted[:3, 0], images[:3, :3].mean(1), rtol=1e-4, atol=1e-5)
    residual = out["residual"].reshape(4, 3, S, S)
    np.testing.assert_allclose(residual[0], images[0, 3:] - predicted[0], rtol=1e-4, atol=1e-5)
    assert np.isnan(residual[2, 2]).all()
    assert np.isnan([predicted[3], residual[3]]).all()
    assert not {"predicted", "residual"} & {column.name for column in columns(CONFIG, S)}


def test_cutouts_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"science is \(2, 3456\), must be \[rows, 6144\]: 32 pixels"):
        cutouts(make_cutouts(2, S), 32, CPU)


def test_too_few_objects_are_refused(fitted) -> None:
    scorer = Scorer(CONFIG, S, predict, CPU)
    with pytest.raises(ValueError, match="reference has 5 rows"):
        fit(scorer, [objects(5, 1)], [objects(30, 2)], 1)
    with pytest.raises(ValueError, match="held_out has no rows"):
        fit(scorer, [objects(30, 1)], [], 1)
    with pytest.raises(ValueError, match=r"latent_reference: got .*, expected \[N, 1\]"):
        predictor(Scorer(dataclasses.replace(CONFIG, num_latent=1), S, predict, CPU), fitted, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_neighbours": 0}, "num_neighbours is 0"),
        ({"num_reference": 10}, "num_reference 10 must exceed"),
        ({"aperture_radius_arcsec": 0.0}, "aperture_radius_arcsec is 0.0"),
        ({"min_aperture_fraction": 0.0}, "min_aperture_fraction is 0.0"),
        ({"snr_edges": (30.0, 10.0)}, "snr_edges is"),
        ({"off_manifold": ("loss",)}, "off_manifold"),
        ({"on_manifold": ()}, "on_manifold"),
    ],
)
def test_bad_scoring_settings_are_refused_by_name(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BandScoringConfig(**settings)


def test_every_calibrated_score_is_a_column() -> None:
    assert set(SCORES) <= {column.name for column in columns(BandScoringConfig(), 96)}


def test_trained_network_predicts_better_than_a_mean_colour_and_finds_swapped_bands() -> None:
    torch.set_num_threads(1)
    config = BandGANConfig(
        size=S, width=8, levels=2, discriminator_width=8, learning_rate=6e-3, precision="float32", scoring=CONFIG
    )  # fmt: skip
    task = SPEC.task(config, 0)
    task.start(CPU, 200)
    train = make_cutouts(600, S, 1)
    for step in range(200):
        chosen = np.random.default_rng(step).choice(600, 16, replace=False)
        task.step({name: values[chosen] for name, values in train.items()}, step)
    module = SPEC.build(config)
    module.load_state_dict(module_weights(task.modules))
    fitted = SPEC.fit(config, module, [train], [make_cutouts(600, S, 2)])
    predict_all = SPEC.predictor(config, module, fitted, CPU)
    batch = make_cutouts(300, S, 3)
    out = predict_all(batch)
    bright = out["input_snr"] > 30
    for band in LW_BANDS:
        colour = -2.5 * np.log10(out[f"flux_{band}"] / out["flux_f200w"])[bright]
        residual = out[f"mag_residual_{band}"][bright]
        assert _mad(residual) < 0.75 * _mad(colour), band
        assert abs(np.median(residual)) < 0.15, band
    red = bright & (out["flux_f444w"] > 2 * out["flux_f277w"])
    assert red.sum() > 30
    for row in np.flatnonzero(red):
        swap_bands(batch, row, S, 3, 5)
    swapped = predict_all(batch)["off_manifold_score"][red]
    assert np.median(out["off_manifold_score"]) < 1
    assert np.median(swapped) > 2


def test_the_engine_trains_stores_and_runs_it_as_any_other_model(tmp_path) -> None:
    settings = {"size": S, "width": 8, "levels": 2, "discriminator_width": 8, "precision": "float32"}
    settings |= {"scoring": dataclasses.asdict(CONFIG)}
    config = model_config(SPEC, settings, "model")
    columns_read = tuple(column.name for column in SPEC.reads(config))
    table = _table(make_cutouts(120, S, 1)).append_column("split_hash", pa.array(np.linspace(0, 0.99, 120)))
    task = SPEC.task(config, 0)
    task.start(CPU, 10)
    plan = EpochPlan(columns_read, 32, 64, 0.3, 0.3, 0)
    epoch = run_epoch(task, task.modules, [table[:50], table[50:]], plan, 0, 0, lambda *_: None)
    assert epoch.next_step == 2
    assert {"val_loss", "val_mag_bias_f444w", "train_adversarial"} <= epoch.metrics.keys()
    module = SPEC.build(config)
    module.load_state_dict(module_weights(task.modules))
    batches = [to_arrays(part, columns_read) for part in (table[36:], table[:36])]
    fitted = SPEC.fit(config, module, batches[:1], batches[1:])
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    uri, storage = str(tmp_path / "checkpoint"), Storage()
    save(Checkpoint("band_gan", 1, settings, {}, weights, fitted), uri, storage, "float16")
    rows = _table(make_cutouts(9, S, 3)).append_column("flags", pa.array([4] * 9, pa.int32()))
    rows = pa.concat_tables([rows[:4], rows[4:]])  # two chunks
    out = InferStage.from_checkpoint(SPEC, uri).open()(UnitTable(rows, rejected_table([]), 9)).rows
    assert np.isfinite(out["anomaly_score"].to_numpy()).all()
    assert all(flags & 4 for flags in out["flags"].to_pylist())


def _table(batch: dict[str, np.ndarray]) -> pa.Table:
    return pa.table({k: list_array(v) if v.ndim == 2 else pa.array(v) for k, v in batch.items()})


def _mad(values: np.ndarray) -> float:
    return float(np.median(np.abs(values - np.median(values))))
