"""What is said of a generator beside its distances: intervals, coverage, copies, Frechet distances."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor, nn

from models.evaluation import neighbours
from models.evaluation.distances import PROPERTIES
from models.evaluation.frechet import frechet_distance, inception, kernel_distance, pictures
from models.evaluation.intervals import bootstrap, by_halves
from models.evaluation.neighbours import copying, precision_recall, squared_distances
from models.evaluation.table import TableConfig
from models.evaluation.verdict import UNITS, Value, coverage, floor, nearness, shown, verdict
from models.evaluation.wasserstein import wasserstein
from tests.unit.test_evaluation import measures


def normal(shape: tuple[int, ...], seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, shape)


def test_intervals_cover_the_true_distance_about_as_often_as_they_say() -> None:
    """Of normals that are 0.5 sigma apart; the bootstrap of 60 values is a little too narrow."""
    hits = 0
    for seed in range(60):
        first, second = normal((60,), 2 * seed), normal((60,), 2 * seed + 1, 0.5)
        ends = bootstrap(
            lambda a, b: {"x": wasserstein(first[a], second[b])}, 60, 60, 100, seed  # noqa: B023
        )  # fmt: skip
        hits += ends["x"][0] <= 0.5 <= ends["x"][1]
    assert 49 <= hits <= 60


def test_intervals_are_the_same_again_and_not_below_0() -> None:
    first, second = normal((50,), 1), normal((40,), 2)

    def distance(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
        return {"x": wasserstein(first[a], second[b])}

    ends = bootstrap(distance, 50, 40, 50)
    assert ends == bootstrap(distance, 50, 40, 50)
    assert 0 <= ends["x"][0] < ends["x"][1]


@pytest.mark.parametrize("sizes", [(0, 5, 10), (5, 0, 10), (5, 5, 1)])
def test_intervals_of_nothing_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="are needed"):
        bootstrap(lambda a, b: {"x": 0.0}, *sizes)


def test_a_draw_that_cannot_be_measured_leaves_its_interval_open_not_the_value() -> None:
    real, made = measures(60, 1), measures(50, 2)
    made.morphology["gini"][22:] = np.nan  # 22 are left: many draws have fewer than 20
    with_few = verdict(real, made, repeats=60).values
    assert np.isfinite([value.value for value in with_few.values()]).all()
    assert np.isnan([with_few["gini"].low, with_few["average"].high]).all()
    assert np.isfinite([with_few["power"].low, with_few["power_partitions"].high]).all()


def test_an_amplitude_outside_of_the_histograms_leaves_intervals_of_power_open() -> None:
    real, made = measures(150, 1), measures(150, 2)
    made.spectra[7] *= 1e9  # below a hundredth of the set, but not of each draw
    found = verdict(real, made, repeats=60).values
    assert np.isfinite(found["power"].value)
    assert np.isnan([found["power"].low, found["power"].high, found["average"].low]).all()
    assert np.isfinite([found["morphology"].low, found["morphology"].high]).all()


def test_a_group_that_cannot_be_measured_takes_no_other_with_it() -> None:
    """All images below the histograms in a bin, as smoothed ones of a survey are; then without a colour of early types."""
    real, made = measures(60, 1), measures(50, 2)
    for one in (real, made):
        one.spectra[:, 12] *= 1e-6
    features = normal((60, 4), 1), normal((50, 4), 2)
    found = verdict(real, made, features, repeats=10)
    assert [*found.values] == [*PROPERTIES, "morphology", *UNITS]
    assert np.isfinite(found.values["gini"]).all()
    assert {*found.missing} == {"power", "power_partitions"}
    assert "100.0% of the first sample is not within -5.0 to 4.0" in found.told[0]
    assert found.told[0].startswith("no power (released, averaged): ")
    assert [*floor(real, features[0], repeats=2).values] == [*found.values]
    whole = verdict(real, made, features, TableConfig(histogram=False), repeats=0)
    assert {*whole.values} == {*found.values, "power", "power_partitions", "average"}
    assert not whole.missing


def test_power_that_is_not_averaged_does_not_cost_the_average() -> None:
    real, made = measures(60, 1), measures(50, 2)
    made.spectra[:, -1] = 0.0  # a bin beyond the released ones
    found = verdict(real, made, (normal((60, 4), 1), normal((5, 4), 2)), repeats=0)
    assert {*found.missing} == {"power_partitions", "coverage"}
    assert found.values["average"].value == pytest.approx(
        (found.values["morphology"].value + found.values["power"].value) / 2
    )


def test_a_draw_without_any_distance_leaves_all_intervals_open() -> None:
    def distance(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
        if len(np.unique(a)) < len(a):
            raise ValueError("a draw has rows twice")
        return {"x": 1.0}

    assert np.isnan(bootstrap(distance, 10, 10, 5)["x"]).all()


def test_intervals_by_halves_are_as_wide_as_draws_of_new_sets_say() -> None:
    """Of the mean, whose standard error is known, and of precision, by sets drawn anew."""
    values = normal((200,), 1)
    low, high = by_halves(lambda a, b: {"x": 5 + values[a].mean()}, 200, 200, 400)["x"]
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 200**0.5, rel=0.15)

    drawn = [precision_recall(normal((80, 2), 2 * n), normal((80, 2), 2 * n + 1, 1.5))[0] for n in range(80)]
    widths = [
        value.high - value.low
        for n in range(8)
        for value in [coverage((normal((80, 2), 2 * n), normal((80, 2), 2 * n + 1, 1.5)), 60)["precision"]]
    ]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(drawn), rel=0.35)
    with pytest.raises(ValueError, match="at least 2 of each"):
        by_halves(lambda a, b: {"x": 0.0}, 1, 5)


def test_halves_too_small_to_measure_leave_intervals_open() -> None:
    found = coverage((normal((30, 2), 1), normal((30, 2), 2)), repeats=5)
    assert np.isfinite([value.value for value in found.values()]).all()
    assert np.isnan([value.low for value in found.values()]).all()


def test_nearness_has_an_interval_about_a_half_for_images_alike() -> None:
    alike = nearness(normal((60,), 1), normal((60,), 2))
    assert alike.low < 0.5 < alike.high
    assert alike.high - alike.low == pytest.approx(
        2 * 1.96 * copying(normal((60,), 1), normal((60,), 2)).error, rel=0.3
    )
    assert nearness(np.zeros(30), np.ones(30)) == Value(1.0, 1.0, 1.0)
    assert np.isnan(nearness(np.zeros(30), np.ones(30), repeats=0).low)


def test_the_floor_has_what_the_verdict_has() -> None:
    real, features = measures(80, 1), normal((80, 3), 1)
    beside, missing = floor(real, features, repeats=2)
    assert not missing
    assert [*beside] == [*verdict(real, real, (features, features), repeats=0).values]
    assert 0.3 < beside["precision"][0] <= 1
    assert beside["frechet_pooled"][0] > 0
    assert [*floor(real, repeats=1).values] == [name for name in beside if name not in UNITS]


def test_a_set_covers_itself_and_not_what_is_far() -> None:
    real = normal((200, 4), 1)
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real, real + 100) == (0.0, 0.0)


def test_one_mode_is_precise_and_covers_half() -> None:
    real = np.concatenate([normal((300, 3), 1), normal((300, 3), 2, 50.0)])
    precision, recall = precision_recall(real, normal((600, 3), 3))
    assert precision > 0.9
    assert recall == pytest.approx(0.5, abs=0.05)


def test_precision_is_that_of_a_loop_over_all_pairs() -> None:
    real, made = normal((30, 2), 1), normal((25, 2), 2, 0.5)

    def reach(values: np.ndarray, k: int) -> np.ndarray:
        return np.array([sorted(np.linalg.norm(values - one, axis=1))[k] for one in values])

    inside = [any(np.linalg.norm(one - real, axis=1) <= reach(real, 3)) for one in made]
    covered = [any(np.linalg.norm(one - made, axis=1) <= reach(made, 3)) for one in real]
    assert precision_recall(real, made) == pytest.approx((np.mean(inside), np.mean(covered)))


def test_neighbours_in_blocks_of_rows_are_those_of_the_full_computation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, made = normal((70, 3), 1), normal((45, 3), 2, 0.5)
    between = squared_distances(real, made)
    reach = [np.sort(squared_distances(one, one), axis=1)[:, 3] for one in (real, made)]
    whole = (between <= reach[0][:, None]).any(0).mean(), (between <= reach[1]).any(1).mean()
    largest = 0

    def watched(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        nonlocal largest
        largest = max(largest, len(first) * len(second))
        return squared_distances(first, second)

    monkeypatch.setattr(neighbours, "squared_distances", watched)
    for most in (1, 8 * 70 * 11, neighbours.BLOCK_BYTES):
        largest = 0
        monkeypatch.setattr(neighbours, "BLOCK_BYTES", most)
        assert precision_recall(real, made) == whole
        assert largest <= max(most // 8, 70)


def test_features_that_say_nothing_are_refused() -> None:
    real = normal((40, 3), 1)
    with pytest.raises(ValueError, match="19 values, at least 20"):
        precision_recall(real, real[:19])
    with pytest.raises(ValueError, match="generated set are not all finite"):
        precision_recall(real, np.where(np.arange(40)[:, None] == 3, [[0, np.nan, 0]], real))
    with pytest.raises(ValueError, match=r"expected \[N, F\]"):
        precision_recall(real, real[:, :2])


def test_copies_are_nearer_than_held_out_images() -> None:
    pairs = [(normal((50,), 2 * n), normal((40,), 2 * n + 1)) for n in range(40)]
    alike = [copying(*pair) for pair in pairs]
    for found, pair in zip(alike, pairs, strict=True):
        assert found.nearer == pytest.approx(1 - mannwhitneyu(*pair).statistic / 2000)
    assert np.std([one.nearer for one in alike]) == pytest.approx(alike[0].error, rel=0.35)
    assert np.mean([one.nearer for one in alike]) == pytest.approx(0.5, abs=0.03)
    copies = copying(np.zeros(50), np.ones(50))
    assert (copies.nearer, copies.generated, copies.held_out) == (1.0, 0.0, 1.0)
    assert copying(np.ones(50), np.ones(50)).nearer == 0.5
    with pytest.raises(ValueError, match="held-out images: 3 values"):
        copying(np.ones(50), np.ones(3))


def test_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    """Independent features: squared difference of means and of standard deviations, added."""
    draws = normal((40_000, 2), 1)
    first, second = draws, draws * [2.0, 0.5] + [1.0, -3.0]
    assert frechet_distance(first, second) == pytest.approx(10 + 1.0 + 0.25, rel=0.02)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert frechet_distance(first @ turn, second @ turn) == pytest.approx(frechet_distance(first, second))


def test_kernel_distance_is_0_on_average_and_grows() -> None:
    same = [
        kernel_distance(normal((100, 5), n), normal((100, 5), 100 + n), subsets=5, rows=80) for n in range(10)
    ]
    assert abs(np.mean(same)) < 3 * np.std(same) / 10**0.5 + 0.02
    assert kernel_distance(normal((100, 5), 1), normal((100, 5), 2, 1.0), subsets=5) > 1
    with pytest.raises(ValueError, match="at least 20"):
        kernel_distance(normal((100, 5), 1), normal((10, 5), 2))


def test_pictures_are_scaled_one_by_one_and_coloured() -> None:
    ramp = np.linspace(0, 1, 256)
    colours = np.stack([ramp, 1 - ramp, np.zeros(256)], 1)
    images = np.arange(2 * 64 * 64, dtype=np.float32).reshape(2, 64, 64)
    made = pictures(images, colours)
    assert made.shape == (2, 3, 256, 256)
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made[0], made[1], "each has its own scale")
    assert (made[0, 0].min(), made[0, 0].max(), made[0, 2].max()) == (0, 255, 0)
    np.testing.assert_allclose(made[0, 0].astype(int) + made[0, 1], 255, atol=1)
    for bad in (np.ones((1, 8, 8)), np.where(np.eye(8) > 0, np.nan, 1.0)[None]):
        with pytest.raises(ValueError, match="makes no picture"):
            pictures(bad, colours)


class Stand(nn.Module):
    """Has the interface of the seed's archive: means of channels, in the place of 2,048 features."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        assert return_features
        return x.to(torch.float32).mean(dim=(2, 3))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_the_seeds_network_is_asked_for_features_where_its_file_is_given(tmp_path: Path) -> None:
    torch.jit.script(Stand()).save(str(tmp_path / "network.pt"))
    extract = inception(str(tmp_path / "network.pt"), rows=3)
    shown_images = np.random.default_rng(0).integers(0, 256, (7, 3, 16, 16), np.uint8)
    np.testing.assert_allclose(extract(shown_images), shown_images.mean((2, 3)), rtol=1e-5)


def test_a_verdict_has_intervals_and_coverage_beside_distances() -> None:
    real, made = measures(60, 1), measures(50, 2, scale=10.0)
    found = verdict(real, made, (normal((60, 4), 1), normal((50, 4), 2)), repeats=20).values
    assert [*found][-3:] == [*UNITS]
    assert found["power"].low < found["power"].value < found["power"].high
    assert found["power"].low > 0.9
    for name in UNITS:
        assert found[name].low <= found[name].value <= found[name].high or name == "frechet_pooled"
        assert 0 <= found[name].low < found[name].high
    assert found["recall"].high <= 1
    assert 0.3 < found["precision"].value <= 1
    assert [*verdict(real, made, repeats=0).values] == [name for name in found if name not in UNITS]


def test_values_are_shown_in_hundredths_with_their_intervals() -> None:
    assert shown(Value(0.0719, 0.06, 0.08)) == "7.19 [6.00, 8.00]"
    assert shown(Value(0.5), 1.0) == "0.50"
