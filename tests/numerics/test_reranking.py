"""Re-ranking from labels: against scikit-learn and SciPy taken straight, closed forms, invariances."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import norm, spearmanr
from sklearn.ensemble import RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern, WhiteKernel

from models.reranking.astronomaly import Astronomaly, damped
from models.reranking.config import AstronomalyConfig, ProtegeConfig
from models.reranking.distance import nearest_distance
from models.reranking.forest import CompiledForest
from models.reranking.labelled import Labelled, Totals
from models.reranking.protege import Protege, expected_improvement

TREES = 20


def draw(num_rows: int, num_features: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, num_rows]).normal(size=(num_rows, num_features)).astype(np.float32)


def labelled(num_labels: int, num_features: int) -> Labelled:
    labels = np.random.default_rng(num_labels).integers(0, 6, num_labels).astype(float)
    return Labelled(draw(num_labels, num_features, seed=1), labels)


@pytest.mark.parametrize(
    ("num_labels", "num_features", "decimals"),
    [(1, 3, 9), (2, 1, 9), (50, 10, 9), (50, 10, 0), (400, 4, 9), (60, 77, 9)],
)
def test_compiled_forest_predicts_what_scikit_learn_does(num_labels, num_features, decimals):
    """Also where values lie on thresholds (rounded features), and with more than 64 leaves a tree."""
    given = labelled(num_labels, num_features)
    known = given.features.round(decimals)
    forest = RandomForestRegressor(TREES, random_state=0).fit(known, given.labels)
    rows = np.concatenate([draw(500, num_features).round(decimals), known])
    leaves = max(tree.tree_.n_leaves for tree in forest.estimators_)
    assert (leaves > 64) == (num_labels == 400)
    np.testing.assert_allclose(CompiledForest(forest).predict(rows), forest.predict(rows), rtol=1e-12)


def test_compiled_forest_decides_at_a_threshold_as_scikit_learn_does():
    """The float32 just above a float64 threshold, the one just below, and the threshold itself."""
    forest = RandomForestRegressor(TREES, random_state=0).fit(
        labelled(30, 1).features, labelled(30, 1).labels
    )
    edges = np.concatenate([t.tree_.threshold[t.tree_.feature == 0] for t in forest.estimators_]).astype(
        np.float32
    )
    rows = np.concatenate([np.nextafter(edges, np.float32(s)) for s in (-9, 9)] + [edges])[:, None]
    np.testing.assert_allclose(CompiledForest(forest).predict(rows), forest.predict(rows), rtol=1e-12)


def test_distance_is_that_of_scipy_and_0_for_labelled_rows():
    rows, others = draw(300, 7), draw(13, 7, seed=1)
    np.testing.assert_allclose(nearest_distance(rows, others), cdist(rows, others).min(1), rtol=1e-5)
    far = others + np.float32(1e4)  # where |a|^2 - 2 a b + |b|^2 would have lost all digits
    assert (nearest_distance(far, far) == 0).all()
    assert nearest_distance(rows[:0], others).shape == (0,)


def test_far_from_labels_the_raw_score_stands_and_at_a_label_its_trust():
    score, label = np.array([5.0, 2.0, 1.0]), np.array([0.0, 2.5, 5.0])
    np.testing.assert_allclose(damped(score, label, np.full(3, 50.0), 1.0), score)
    np.testing.assert_allclose(damped(score, label, np.zeros(3), 1.0), score * (0.1 + 0.85 * label / 5))


def test_damping_grows_with_label_and_distance():
    label, distance = np.meshgrid(np.linspace(0, 5, 9), np.linspace(0, 1.2, 9))
    final = damped(np.full(label.shape, 3.0), label, distance, 1.0)
    assert (np.diff(final, axis=1) > 0).all()
    assert (np.diff(final, axis=0) > 0).all()
    assert (damped(np.array([3.0]), np.array([0.1]), np.array([0.5]), 2.0) > damped(np.array([3.0]), np.array([0.1]), np.array([0.5]), 1.0)).all()  # fmt: skip


def straight_astronomaly(
    given: Labelled, rows: np.ndarray, score: np.ndarray, config: AstronomalyConfig
) -> np.ndarray:
    """Give the formula as the papers write it, with no thought of speed."""
    forest = RandomForestRegressor(config.num_trees, random_state=config.seed).fit(
        given.features, given.labels
    )
    user = forest.predict(rows)
    distance = cdist(rows, given.features).min(1)
    raw = 5 * (score - score.min()) / (score.max() - score.min())
    return raw * np.tanh(
        np.exp(config.alpha * distance / distance.mean()) - 1 + np.arctanh(0.1 + 0.85 * user / 5)
    )


def in_parts(reranker: Astronomaly | Protege, rows: np.ndarray, score: np.ndarray, sizes: list[int]) -> dict:
    """As a job does it: totals of all parts, then each part."""
    cuts = np.cumsum(sizes)
    parts = list(zip(np.split(rows, cuts), np.split(score, cuts), strict=True))
    totals = sum((reranker.totals(*part) for part in parts), Totals())
    columns = [reranker.apply(*part, totals) for part in parts]
    return {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}


@pytest.mark.parametrize("sizes", [[], [1, 100, 500]])
def test_astronomaly_is_the_formula_whatever_the_partitions(sizes):
    given, rows = labelled(50, 10), draw(800, 10)
    rows[:50] = given.features
    score = np.random.default_rng(3).exponential(size=800).astype(np.float32)
    config = AstronomalyConfig(num_trees=TREES)
    found = in_parts(Astronomaly(given, config), rows, score, sizes)
    expected = straight_astronomaly(given, rows, score.astype(np.float64), config)
    assert spearmanr(found["rerank_score"], expected).statistic > 0.9999
    np.testing.assert_allclose(found["rerank_score"], expected, rtol=1e-4, atol=1e-5)
    assert (found["labelled_distance"][:50] == 0).all()


def test_labels_of_0_are_damped_as_astronomaly_damps_them():
    """Its trust in a label of 0 is 0.1: an object that was labelled 0 keeps a tenth of its score, one of 5 keeps 0.95."""
    rows, score = draw(400, 4), np.random.default_rng(3).exponential(size=400).astype(np.float32)
    given = Labelled(rows[:40], np.where(rows[:40, 0] > 0, 5.0, 0.0))
    config = AstronomalyConfig(num_trees=TREES)
    found = in_parts(Astronomaly(given, config), rows, score, [100])
    assert (found["predicted_label"] < 0.1).sum() > 20
    expected = straight_astronomaly(given, rows, score.astype(np.float64), config)
    np.testing.assert_allclose(found["rerank_score"], expected, rtol=1e-4, atol=1e-5)
    bored = Astronomaly(Labelled(rows[:20], np.zeros(20)), config)
    alone = in_parts(bored, rows, score, [])
    raw = 5 * (score - score.min()) / (score.max() - score.min())
    assert (alone["predicted_label"] == 0).all()
    np.testing.assert_allclose(alone["rerank_score"][:20], 0.1 * raw[:20], rtol=1e-4, atol=1e-6)


def test_a_forest_too_large_for_tables_predicts_the_same(monkeypatch):
    given, rows, score = labelled(50, 10), draw(300, 10), np.arange(300, dtype=np.float32)
    config = AstronomalyConfig(num_trees=TREES)
    compiled = in_parts(Astronomaly(given, config), rows, score, [])
    monkeypatch.setattr("models.reranking.astronomaly.COMPILED_BYTES", 0)
    walked = in_parts(Astronomaly(given, config), rows, score, [])
    np.testing.assert_allclose(compiled["rerank_score"], walked["rerank_score"], rtol=1e-6)


def test_scores_that_are_all_the_same_have_no_rank_but_are_numbers():
    found = in_parts(
        Astronomaly(labelled(5, 2), AstronomalyConfig(num_trees=3)), draw(9, 2), np.ones(9, np.float32), []
    )
    assert (found["rerank_score"] == 0).all()


def test_protege_is_scikit_learns_process_with_the_expected_improvement():
    rows, score = draw(400, 3), np.zeros(400, np.float32)
    features = draw(40, 3, seed=1)
    noise = np.random.default_rng(4).normal(0, 0.4, 40)
    given = Labelled(features, np.clip(2.5 + 2 * np.sin(2 * features[:, 0]) + noise, 0, 5).astype(float))
    found = in_parts(Protege(given, ProtegeConfig()), rows, score, [7, 200])
    process = GaussianProcessRegressor(Matern() + WhiteKernel(), random_state=0).fit(
        given.features, given.labels
    )
    mean, sigma = process.predict(rows, return_std=True)
    np.testing.assert_allclose(found["predicted_label"], mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["predicted_label_sigma"], sigma, rtol=1e-4)
    z = (mean - given.labels.max() - 0.5) / sigma
    np.testing.assert_allclose(
        found["rerank_score"], sigma * (z * norm.cdf(z) + norm.pdf(z)), rtol=1e-3, atol=1e-6
    )


def test_expected_improvement_is_its_integral():
    """Monte Carlo of max(0, label - best), to four standard errors."""
    draws = np.random.default_rng(5).normal(2.0, 0.7, 200_000)
    gain = np.maximum(draws - 2.4, 0)
    value = expected_improvement(np.array([2.0]), np.array([0.7]), 2.4)[0]
    assert value == pytest.approx(gain.mean(), abs=4 * gain.std() / len(gain) ** 0.5)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0), "at least one"),
        (np.zeros((1, 2)), np.array([5.1]), "0 to 5"),
        (np.zeros((1, 2)), np.array([np.nan]), "0 to 5"),
        (
            np.array([[0.0, np.nan]]),
            np.array([1.0]),
            "1 rows have features that are not finite, the first at 0",
        ),
    ],
)
def test_labels_that_cannot_be_learned_from_are_refused(features, labels, message):
    with pytest.raises(ValueError, match=message):
        Labelled(features.astype(np.float32), labels)


@pytest.mark.parametrize("method", [Astronomaly, Protege])
def test_rows_that_are_not_finite_are_refused(method):
    config = AstronomalyConfig(num_trees=3) if method is Astronomaly else ProtegeConfig()
    rows = draw(4, 2)
    rows[2, 1] = np.inf
    with pytest.raises(ValueError, match="1 rows have features that are not finite, the first at 2"):
        method(labelled(5, 2), config).totals(rows, np.zeros(4, np.float32))


@pytest.mark.parametrize("settings", [{"alpha": 0.0}, {"num_trees": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="must be"):
        AstronomalyConfig(**settings)
    with pytest.raises(ValueError, match="tradeoff"):
        ProtegeConfig(tradeoff=-1)
