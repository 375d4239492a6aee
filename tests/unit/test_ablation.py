"""The comparison of reductions: metrics against scikit-learn and closed forms, linear methods, a whole small run."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.ablation import __main__ as command
from benchmarks.ablation import pages, table
from benchmarks.ablation.evaluate import PLAIN, RANKED, spread
from benchmarks.ablation.linear import (
    coefficients,
    fit_weighted_nmf,
    fit_weighted_pca,
    pixel_weights,
)
from benchmarks.ablation.metrics import average_precision, interval, measure, recall_at, snr_bins
from benchmarks.ablation.reduction import excess_variance
from benchmarks.ablation.sample import NUM_OBSERVED, OBSERVED_MAX, OBSERVED_MIN, binned, drawn, make_sample
from engine.spectra.grid import WAVE_OBS
from engine.synthetic.population import SimulateConfig
from models.scoring import density


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_average_precision_at_the_sample_s_own_prevalence_is_scikit_learn_s(rng: np.random.Generator) -> None:
    truth = rng.random(500) < 0.2
    score = rng.normal(size=500) + truth
    expected = average_precision_score(truth, score)
    assert average_precision(truth, score, float(truth.mean())) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("prevalence", [0.01, 0.3])
def test_average_precision_of_a_score_that_knows_nothing_is_the_prevalence(prevalence: float) -> None:
    truth = np.arange(4000) % 4 == 0
    assert average_precision(truth, np.zeros(4000), prevalence) == pytest.approx(prevalence, rel=1e-9)
    assert average_precision(truth, truth.astype(float), prevalence) == pytest.approx(1)


def test_average_precision_does_not_depend_on_how_many_normal_objects_there_are(
    rng: np.random.Generator,
) -> None:
    score = rng.normal(size=300)
    truth = np.arange(300) < 60
    often = np.repeat(np.arange(300), np.where(truth, 1, 7))
    assert average_precision(truth[often], score[often]) == pytest.approx(average_precision(truth, score))


def test_recall_is_the_normal_distribution_s() -> None:
    from scipy.stats import norm

    score = np.r_[norm.ppf((np.arange(20_000) + 0.5) / 20_000), norm.ppf((np.arange(5000) + 0.5) / 5000) + 2]
    truth = np.arange(25_000) >= 20_000
    for rate in (0.001, 0.01, 0.1):
        assert recall_at(truth, score, rate) == pytest.approx(norm.sf(norm.isf(rate) - 2), abs=2e-3)


def test_recall_never_lets_more_normal_objects_pass_than_the_rate() -> None:
    normal, score = np.arange(150.0), np.r_[np.arange(150.0), 148.5, 149.0, 149.5]
    truth = np.arange(153) >= 150
    assert recall_at(truth, score, 0.001) == pytest.approx(1 / 3), "none of 150 may pass"
    assert recall_at(truth, score, 0.01) == pytest.approx(1.0), "one may"
    assert recall_at(np.r_[normal < 0, True], np.r_[normal, 149.0], 0.001) == 0, "a tie does not pass"


def test_measure_compares_with_normal_objects_of_the_same_brightness_and_class(
    rng: np.random.Generator,
) -> None:
    num = 4000
    truth = {
        "anomaly": np.where(np.arange(num) % 10 == 0, "double_peaked_lines", ""),
        "target": np.where(np.arange(num) % 20 == 3, "STAR", "BGS"),
        "snr": rng.uniform(0, 13, num),
    }
    score = truth["snr"] + 1e3 * (truth["target"] == "STAR")
    values = measure(score, truth)
    for name in snr_bins():
        here = (truth["target"] == "BGS") & in_bin(truth["snr"], name)
        expected = roc_auc_score(truth["anomaly"][here] != "", score[here])
        assert values["AUROC"]["double_peaked_lines"][name] == pytest.approx(expected)
    assert values["AUROC"]["mean"]["all"] == pytest.approx(0.5, abs=0.05), "brightness tells nothing"
    assert values["recall at 1 %"]["mean"]["all"] == 0, "stars are all above"


def in_bin(snr: np.ndarray, name: str) -> np.ndarray:
    low, high = snr_bins()[name]
    return (snr >= low) & (snr < high)


def test_scores_that_are_not_numbers_count_as_least_anomalous() -> None:
    truth = {"anomaly": np.where(np.arange(400) < 40, "sky_residual", ""), "target": np.full(400, "BGS"),
             "snr": np.ones(400)}  # fmt: skip
    score = np.where(np.arange(400) < 20, np.nan, np.arange(400.0)[::-1])
    assert measure(score, truth)["recall at 1 %"]["sky_residual"]["all"] == pytest.approx(0.5)


def test_interval_is_student_s() -> None:
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == pytest.approx(2)
    assert half == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)
    assert np.isnan(interval([1.0])[1])


def test_weighted_components_with_equal_weights_are_principal_components(rng: np.random.Generator) -> None:
    latent = rng.normal(size=(300, 3)) * [5, 3, 2]
    flux = latent @ rng.normal(size=(3, 40)) + 0.01 * rng.normal(size=(300, 40)) + 1
    ivar = np.full(flux.shape, 100.0)
    model = fit_weighted_pca(*(torch.tensor(a, dtype=torch.float32) for a in (flux, ivar)), 3, 40, 0)
    pca = PCA(3).fit(flux)
    overlap = np.linalg.svd(model.components.numpy() @ pca.components_.T)[1]
    np.testing.assert_allclose(overlap, 1, atol=1e-4)


def test_weighted_components_are_not_misled_by_unusable_pixels(rng: np.random.Generator) -> None:
    flux = 1 + rng.normal(size=(400, 1)) @ np.sin(np.linspace(0, 6, 50))[None]
    usable = rng.random(flux.shape) > 0.3
    spoiled = np.where(usable, flux, 50.0)
    tensors = [torch.tensor(a, dtype=torch.float32) for a in (spoiled, 1e4 * usable)]
    model = fit_weighted_pca(*tensors, 1, 20, 0)
    recon = model.decode(model.encode(*tensors)).numpy()
    # The mean of a pixel is that of the 280 spectra that have it: good to 0.06.
    np.testing.assert_allclose(recon, flux, atol=0.2)


def test_coefficients_solve_the_weighted_normal_equations(rng: np.random.Generator) -> None:
    components, flux = rng.normal(size=(2, 30)), rng.normal(size=(1, 30))
    weights = rng.uniform(0.1, 1, (1, 30))
    root = np.sqrt(weights[0])
    expected = np.linalg.lstsq((components * root).T, flux[0] * root, rcond=None)[0]
    found = coefficients(*(torch.tensor(a) for a in (flux, weights, components)))
    np.testing.assert_allclose(found[0], expected, rtol=1e-4)


def test_positive_templates_reconstruct_positive_mixtures_and_never_get_worse(
    rng: np.random.Generator,
) -> None:
    truth = rng.uniform(0, 1, (2, 40)) ** 3
    flux = torch.tensor(rng.uniform(0, 1, (200, 2)) @ truth, dtype=torch.float32)
    ivar = torch.full_like(flux, 1e4)

    def error(iterations: int) -> float:
        model = fit_weighted_nmf(flux, ivar, 2, iterations, 1)
        residual = flux - model.decode(model.encode(flux, ivar))
        assert (model.templates >= 0).all()
        return float((pixel_weights(ivar) * residual.square()).mean())

    errors = [error(n) for n in (5, 50, 300)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01 * errors[0]


def test_excess_variance_is_what_noise_does_not_explain(rng: np.random.Generator) -> None:
    ivar = torch.tensor(rng.uniform(20, 200, (40_000, 3)))
    spread = torch.tensor([0.05, 0.2, 0.0], dtype=torch.float64)
    noise = torch.tensor(rng.normal(size=ivar.shape))
    residual = noise * (1 / ivar + spread**2).sqrt()
    total, weight = excess_variance(residual, ivar)
    # A variance v of 40,000 values is known to 0.007 v.
    error = (total / weight - spread**2).abs()
    assert (error < 4 * 0.007 * (spread**2 + 0.02)).all()


def test_binning_keeps_the_weighted_mean_and_the_information(rng: np.random.Generator) -> None:
    flux, ivar = rng.normal(size=(2, 23)), rng.uniform(0, 2, (2, 23))
    ivar[0, :5] = 0
    mean, total = binned(flux, ivar, 5)
    assert mean.shape == (2, 4)
    np.testing.assert_allclose(total.sum(1), ivar[:, :20].sum(1), rtol=1e-6)
    np.testing.assert_allclose(mean[1, 2], np.average(flux[1, 10:15], weights=ivar[1, 10:15]), rtol=1e-6)
    assert mean[0, 0] == total[0, 0] == 0


def test_binned_grid_lies_in_the_middle_of_its_pixels() -> None:
    wave = WAVE_OBS[: NUM_OBSERVED * 5].reshape(-1, 5).mean(1)
    np.testing.assert_allclose(np.linspace(OBSERVED_MIN, OBSERVED_MAX, NUM_OBSERVED), wave, rtol=1e-12)


def test_rest_frame_uses_the_redshift_that_is_reported() -> None:
    mix = SimulateConfig(anomaly_fraction=1.0, anomaly_kinds=("wrong_redshift",))
    sample = make_sample(4, (1, 2), mix, None, ("observed", "rest"))
    assert set(sample.columns["anomaly"]) == {"wrong_redshift"}
    wave = np.geomspace(640, 9840, 2860)
    for z, ivar in zip(sample.columns["z"], sample.frames["rest"][1], strict=True):
        first = wave[np.flatnonzero(ivar)[0]]
        assert first * (1 + z) < 4300, "the blue end of the grid, or masked pixels beside it"
        assert first * (1 + z) > 3580


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    cache = tmp_path_factory.mktemp("ablation")
    names = ["pca", "weighted_pca", "autoencoder", "vae_rest", "redshift_vae"]
    return ["--num-train", "128", "--num-held-out", "96", "--num-test", "256", "--passes", "1", "--seeds", "1", "2",
            "--anomaly-fraction", "0.5", "--methods", *names, "--cache", str(cache)]  # fmt: skip


def test_smallest_run_prints_every_table(
    small_run: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(density, "MAX_EPOCHS", 1)  # what the flows learn does not matter here
    command.main(small_run)
    text = capsys.readouterr().out
    for words in (
        "Ranked by `anomaly_score`",
        "Ranked by plain chi2",
        "wrong_redshift",
        *(f"{metric} by {what}" for metric in table.METRICS for what in ("kind,", "S/N,", "kind and S/N,")),
        "Best simple baseline",
    ):
        assert words in text
    assert "±" in text


def test_a_second_run_computes_nothing(small_run: list[str], capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    args = command.parse(small_run)
    assert all(command.cached(args, "pca", seed) for seed in args.seeds)
    command.main([*small_run, "--table-only"])
    first = capsys.readouterr().out

    def fail(*arguments: object) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(command, "run", fail)
    command.main(small_run)
    assert capsys.readouterr().out == first


def test_results_of_other_settings_are_not_taken(small_run: list[str]) -> None:
    other = command.parse([*small_run, "--passes", "2"])
    assert command.cached(other, "pca", 1) is None


def test_results_of_other_templates_are_not_taken_but_those_that_do_not_say(tmp_path: Path) -> None:
    templates = tmp_path / "templates"
    templates.mkdir()
    for name in ("rrtemplate-galaxy.fits", "rrtemplate-galaxy.fits.gz", "other.fits"):
        (templates / name).touch()
    args = command.parse(["--bases", str(templates), "--cache", str(tmp_path)])
    assert command.bases_names(args) == ["rrtemplate-galaxy.fits"]
    kept = tmp_path / "pca-1.json"
    for bases, is_taken in (
        (None, True),
        (["rrtemplate-galaxy.fits"], True),
        (["rrtemplate-qso.fits"], False),
    ):
        kept.write_text(json.dumps({"asked": command.asked(args, "pca"), "bases": bases}))
        assert (command.cached(args, "pca", 1) is not None) == is_taken, bases


def test_result_of_a_shipped_checkpoint_is_stale_when_another_one_stands_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    args = command.parse(["--methods", "shipped", "--cache", str(tmp_path)])
    assert command.asked(args, "shipped") != command.asked(args, "shipped_rest")
    (tmp_path / "shipped-0.json").write_text(json.dumps({"asked": command.asked(args, "shipped")}))
    assert command.collected(args) == {"shipped": {0: command.cached(args, "shipped", 0)}}
    replaced = SimpleNamespace(id="another")
    monkeypatch.setattr(command, "read_header", lambda uri, storage: replaced)
    assert command.collected(args) == {}
    assert "shipped, seed 0" in caplog.text


def test_kept_samples_are_those_that_were_made(tmp_path: Path) -> None:
    mix = SimulateConfig(anomaly_fraction=0.5)
    asked = (6, 3, mix, "", ("observed",))
    made = drawn(*asked, None)
    for _ in range(2):
        kept = drawn(*asked, tmp_path)
        for name, value in made.batch("observed").items():
            np.testing.assert_array_equal(kept.batch("observed")[name], value, err_msg=name)
    assert (kept.columns["spectype"] == made.columns["spectype"]).all()
    both = drawn(6, 3, mix, "", ("observed", "rest"), tmp_path)
    assert both.frames["rest"][0].shape == (6, 2860)
    other = drawn(6, 4, mix, "", ("observed",), tmp_path)
    assert not np.array_equal(other.columns["z"], made.columns["z"])


def test_goal_is_reached_only_where_the_interval_is_above_it() -> None:
    def results(values: list[float]) -> dict:
        return {i: {"anomaly_score": {table.HEADLINE: {"mean": {"all": v}}}} for i, v in enumerate(values)}

    text = table.ratios({"far": results([3.0, 3.1]), "wide": results([1.0, 3.0]), "same": results([1.0, 1.0])},
                        {0: 1.0, 1: 1.0}, "anomaly_score")  # fmt: skip
    verdicts = {line.split("|")[1].strip(): line.split("|")[3].strip() for line in text.splitlines()[2:]}
    assert verdicts == {"far": "yes", "wide": "not shown", "same": "no"}
    alone = table.ratios({"one": results([3.0])}, {0: 1.0}, "anomaly_score")
    assert "yes, without interval" in alone


def test_ratios_pair_what_had_the_same_seed() -> None:
    def ratio(ours: dict[int, float], baseline: dict[int, float]) -> str:
        results = {s: {"anomaly_score": {table.HEADLINE: {"mean": {"all": v}}}} for s, v in ours.items()}
        return (
            table.ratios({"ours": results}, baseline, "anomaly_score").splitlines()[-1].split("|")[2].strip()
        )

    assert ratio({1: 2.0, 2: 4.0}, {1: 1.0, 2: 2.0}) == "2.00 ± 0.00"
    assert ratio({1: 2.0, 2: 4.0, 3: 9.0}, {3: 9.0, 2: 4.0}) == "1.00 ± 0.00", "by number, not by place"
    assert ratio({1: 2.0, 2: 4.0}, {1: 1.0, 3: 2.0}) == "2.00", "one pair has no interval"
    assert ratio({0: 3.0}, {1: 1.0, 2: 2.0}) == "2.00", "a shipped checkpoint has no seed"


def made_up(recall: float, deviation: float | None = None) -> dict:
    """Return a result of one seed with nothing but recall."""
    values = {s: {table.HEADLINE: {"mean": {"all": recall}}} for s in ("anomaly_score", "chi2", "distance")}
    if deviation is None:
        return values
    spreads = {s: {table.HEADLINE: {"mean": {"all": deviation}}} for s in values}
    return values | {table.SPREAD: spreads}


def test_a_checkpoint_that_is_trained_once_has_the_interval_over_test_spectra() -> None:
    args = ("anomaly_score", table.HEADLINE)
    assert table.shown(table.estimate({0: made_up(0.5, 0.01)}, *args)) == "0.500 ± 0.020"
    assert table.shown(table.estimate({0: made_up(0.5)}, *args)) == "0.500", "kept before there was one"
    seeds = {1: made_up(0.4, 0.01), 2: made_up(0.6, 0.01)}
    assert table.estimate(seeds, *args) == interval([0.4, 0.6]), "seeds, where there are some"


def test_ratio_of_a_checkpoint_that_is_trained_once_knows_both_widths() -> None:
    baseline = {1: 0.2, 2: 0.21, 3: 0.19}
    text = table.ratios({"ours": {0: made_up(0.5, 0.01)}}, baseline, "anomaly_score")
    half = 2.5 * np.hypot(0.0196 / 0.5, interval([0.2, 0.21, 0.19])[1] / 0.2)
    assert text.splitlines()[-1] == f"| ours | 2.50 ± {half:.2f} | yes |"
    wide = table.ratios({"ours": {0: made_up(0.3, 0.05)}}, baseline, "anomaly_score")
    assert "not shown" in wide


def test_both_comparisons_are_printed_the_harder_against_our_scores() -> None:
    def both(plain: float, ours: float) -> dict:
        return made_up(ours) | {"chi2": made_up(plain)["chi2"], "distance": made_up(plain)["distance"]}

    found = {
        "pca": {s: both(0.05, 0.2 + 0.01 * s) for s in (1, 2)},
        "vae_rest": {s: both(0.1, 0.4) for s in (1, 2)},
    }
    goal, harder = pages._goal(found)
    assert goal.splitlines()[-1] == "| vae_rest | 8.00 ± 0.00 | yes |"
    assert "by `anomaly_score`, recall at 1 % 0.215" in harder
    assert harder.splitlines()[-2] == "| pca | 1.00 ± 0.00 | no |"
    assert harder.splitlines()[-1].startswith("| vae_rest | 1.86 ±")


def test_spread_is_that_of_other_test_spectra(rng: np.random.Generator) -> None:
    """Recall of 200 independent anomalies at a threshold of many normal ones is binomial."""
    num = 1200
    truth = {"anomaly": np.where(np.arange(num) < 200, "sky_residual", ""), "target": np.full(num, "BGS"),
             "snr": np.ones(num)}  # fmt: skip
    score = np.where(np.arange(num) < 200, 10.0 * (rng.random(num) < 0.3), rng.random(num))
    found = spread(dict.fromkeys((*RANKED, *PLAIN), score), truth, 25)
    deviation = found["anomaly_score"][table.HEADLINE]["sky_residual"]["all"]
    assert deviation == pytest.approx(np.sqrt(0.3 * 0.7 / 200), rel=0.45)  # of 25 samples: to 14 %
    assert np.isnan(found["anomaly_score"][table.HEADLINE]["sky_residual"]["S/N above 10"]), "nobody is there"


def test_table_by_kind_and_snr_has_a_line_for_each_bin_that_someone_has_a_value_in() -> None:
    bins = list(snr_bins())
    values = {"blend": dict.fromkeys(bins, None) | {bins[1]: 0.5, bins[3]: None}}
    results = {"a": {1: {"anomaly_score": {"AUROC": values}}}, "b": {1: {"anomaly_score": {"AUROC": values}}}}
    lines = table.by_kind_and_snr(results, "anomaly_score", "AUROC").splitlines()
    assert lines[0] == "| kind | S/N | a | b |"
    assert lines[2:] == ["| blend | 3 to 6 | 0.50 | 0.50 |"]


def test_cached_results_are_plain_json(small_run: list[str]) -> None:
    args = command.parse(small_run)
    kept = json.loads((Path(args.cache) / "vae_rest-2.json").read_text())
    assert kept["asked"]["num_train"] == 128
    assert 0 <= kept["anomaly_score"]["recall at 1 %"]["mean"]["all"] <= 1
    assert kept["anomaly_score"]["AUROC"]["blend"]["S/N below 3"] is None, "blends are bright"


def test_tables_replace_what_stands_below_the_mark(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\ntext\n\n{table.MARK}\n\nold\n")
    for text in ("new", "newer"):
        table.write_below(page, text)
        assert page.read_text() == f"# Title\n\ntext\n\n{table.MARK}\n\n{text}\n"
    page.write_text("# Another page\n")
    with pytest.raises(ValueError, match="no line"):
        table.write_below(page, "new")
