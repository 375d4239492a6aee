import base64

import matplotlib as mpl
import numpy as np
import pytest

from catalogs import charts
from catalogs.figures import STYLE, new_figure, smooth, style, to_png, to_svg
from catalogs.latent_map import principal_components, umap_points
from catalogs.prediction_chart import prediction_chart
from catalogs.spectrum_picture import Spectrum, residual, spectrum_png
from catalogs.statistics import Histogram, Rate, Trend
from tests.catalogue import gallery_item, make_rows, training_history

ROW = make_rows(1, seed=3).to_pylist()[0] | {"anomaly_rank": 1, "flag_names": []}


def item(**changes: object) -> Spectrum:
    base = gallery_item(ROW)
    fields = {"wave": base.prepare.wave, **base.inputs, **base.outputs}
    return Spectrum(**fields | changes)  # pyright: ignore[reportArgumentType]


def is_png(uri: str) -> bool:
    head, _, data = uri.partition(",")
    return head == "data:image/png;base64" and base64.b64decode(data).startswith(b"\x89PNG")


def test_figures_leave_no_global_state():
    before = dict(mpl.rcParams)
    with style():
        assert mpl.rcParams["font.size"] == STYLE["font.size"]
        spectrum_png(item(), ROW)
    assert dict(mpl.rcParams) == before


def test_the_same_figure_gives_the_same_bytes():
    def draw() -> tuple[str, str]:
        with style():
            figure = new_figure(2, 2)
            figure.subplots().plot([1, 2], [3, 4])
            return to_svg(figure), to_png(figure)

    assert draw() == draw()
    assert draw()[0].startswith("<svg")
    assert "http-equiv" not in draw()[0]


def test_smooth_weighs_by_ivar_and_knows_gaps():
    flux, ivar = np.array([1.0, 5.0, 9.0, 100.0, 7.0]), np.array([1.0, 3.0, 1.0, 0.0, 0.0])
    mean = smooth(flux, ivar, 3)
    assert mean[1] == pytest.approx((1 + 15 + 9) / 5)
    assert mean[3] == pytest.approx(9.0)  # the bad pixel itself does not count
    assert np.isnan(mean[4])


def test_residual_is_in_units_of_noise_and_scatter():
    base = item()
    flux, ivar = base.recon + 1.0, np.full(base.wave.shape, 4.0)
    ivar[0] = 0
    drawn = residual(item(flux=flux, ivar=ivar, sigma=np.full(base.wave.shape, 1.2)))
    assert np.isnan(drawn[0])
    np.testing.assert_allclose(drawn[1:], 1 / np.hypot(0.5, 1.2))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"z": None, "zwarn": 4},
        {"z": float("nan")},
        {"spectype": "STAR", "z": 0.0},
        {"z": 6.0},
        {"worst_wave_min": None, "worst_wave_max": None},
        {"norm": 1e-6},
    ],
)
def test_every_kind_of_row_can_be_drawn(changes):
    assert is_png(spectrum_png(item(), ROW | changes))


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_spectra_without_signal_or_pixels_can_be_drawn(fill):
    zeros = np.zeros(item().wave.shape)
    assert is_png(spectrum_png(item(flux=zeros, ivar=zeros + fill, recon=zeros, sigma=zeros + 1), ROW))


def test_rest_frame_spectra_can_be_drawn():
    wave = np.geomspace(2700, 7000, 1000)
    arrays = {name: np.ones(1000) for name in ("flux", "ivar", "recon", "sigma")}
    assert is_png(spectrum_png(item(wave=wave, frame="rest", **arrays), ROW))


def histogram_of(counts: list[int]) -> Histogram:
    return Histogram(np.linspace(0, 6, len(counts) + 1), np.array(counts))


@pytest.mark.parametrize("counts", [[0, 0, 0], [1, 0, 0], [10**6, 10**4, 10**2]])
def test_score_charts_of_few_and_many_rows(counts):
    histograms = {"anomaly_score": histogram_of(counts)}
    assert charts.score_chart(histograms, {"anomaly_score": 3}).startswith("<svg")
    assert charts.percentile_chart(histograms).startswith("<svg")


def test_expected_counts_are_those_of_a_calibrated_sample():
    """Monte Carlo: -log10 of the smallest of two uniform p-values."""
    scores = -np.log10(np.random.default_rng(5).random((200_000, 2)).min(1))
    edges = np.linspace(0, 6, 25)
    counts = np.histogram(scores, edges)[0]
    counts[-1] += (scores > 6).sum()
    expected = charts._expected_counts(Histogram(edges, counts), 2)
    assert expected.sum() == pytest.approx(200_000)
    chi2 = ((counts - expected) ** 2 / expected)[expected > 20]
    assert chi2.sum() < 50


def rates(num_groups: int) -> list[Rate]:
    return [Rate(i, 100 + i, i % 3, 0.0, 0.05, 1e-4 if i == 1 else 1.0) for i in range(num_groups)]


@pytest.mark.parametrize("num_groups", [1, 10, 41, 600])
def test_rate_charts_of_few_and_many_groups(num_groups):
    assert charts.rate_chart(rates(num_groups), "tile").startswith("<svg")


def test_training_chart_pairs_validation_with_training():
    panels = charts._training_panels(training_history(), "epoch")
    assert list(panels) == ["loss", "kl", "lr"]
    assert set(panels["loss"]) == {"training", "validation"}
    assert panels["kl"]["validation"][2] == pytest.approx((2.0, 0.22))
    assert charts.training_chart(training_history()).startswith("<svg")


@pytest.mark.parametrize(
    "history", [[{"loss": 1.0}], [{"note": "none"}], [{"loss": 1.0}, {"loss": None, "val_loss": 2}]]
)
def test_odd_histories_can_be_drawn_or_are_left_out(history):
    chart = charts.training_chart(history)
    assert chart == "" or chart.startswith("<svg")


def test_principal_components_find_the_directions_of_variance():
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(5000, 3)) * [3.0, 1.0, 0.1] + [5, 5, 5]
    points, others, explained = principal_components(latent, latent[:4])
    assert points.std(0) == pytest.approx([3, 1], rel=0.05)
    assert explained == pytest.approx(np.array([9, 1]) / 10.01, rel=0.05)
    np.testing.assert_allclose(others, points[:4])
    flipped, _, _ = principal_components(-latent, latent[:1])
    np.testing.assert_allclose(flipped, -points, atol=1e-9)


@pytest.mark.parametrize("shape", [(2, 1), (2, 5), (1, 3)])
def test_principal_components_of_few_rows_and_one_latent(shape):
    points, others, _ = principal_components(np.ones(shape), np.ones((1, shape[1])))
    assert points.shape == (shape[0], 2)
    assert np.isfinite(points).all()
    assert np.isfinite(others).all()


def test_umap_keeps_two_groups_apart_and_places_others_among_them():
    rng = np.random.default_rng(5)
    groups = np.repeat([[0.0] * 6, [9.0] * 6], 30, axis=0)
    latent, others = groups + rng.normal(0, 0.5, (60, 6)), groups[[0, 59]]
    points, placed = umap_points(latent, others, seed=1)
    assert points.shape == (60, 2)
    assert np.isfinite(points).all()
    centres = points[:30].mean(0), points[30:].mean(0)
    distances = np.linalg.norm(points[:, None] - np.array(centres), axis=2)
    assert (distances.argmin(1) == np.repeat([0, 1], 30)).all()
    assert np.linalg.norm(placed[:, None] - np.array(centres), axis=2).argmin(1).tolist() == [0, 1]


def test_prediction_chart_draws_each_band_and_leaves_out_bins_of_few():
    edges = np.geomspace(3, 300, 4)
    histogram = Histogram(np.linspace(-6, 6, 5), np.array([1, 50, 40, 2]))
    nan = np.full(3, np.nan)
    full = Trend(edges, np.array([9, 8, 2]), *np.array([[-0.2] * 3, [0.1] * 3, [0.3] * 3]))
    empty = Trend(edges, np.zeros(3, int), nan, nan, nan)
    svg = prediction_chart({"f277w": histogram, "f444w": histogram}, {"f277w": full, "f444w": empty})
    assert svg.startswith("<svg")
    assert svg != prediction_chart({"f277w": histogram, "f444w": histogram}, {"f277w": full, "f444w": full})
    one_less = Trend(edges, np.array([9, 8, 4]), full.low, full.median, full.high)
    assert prediction_chart({"f277w": histogram}, {"f277w": one_less}) == prediction_chart(
        {"f277w": histogram}, {"f277w": full}
    )


def test_logarithmic_axes_have_plain_labels() -> None:
    with style():
        figure = new_figure(4, 3)
        axes = figure.add_subplot()
        axes.plot([0.1, 1, 10], [1, 100, 10_000])
        axes.set_xscale("symlog")
        axes.set_yscale("log")
        drawn = to_svg(figure)
    assert "100" in drawn
    assert "mathdefault" not in drawn
