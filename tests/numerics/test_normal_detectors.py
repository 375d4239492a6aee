"""Detectors of odd places against scikit-learn and closed forms; kept as arrays and read again."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.ensemble import IsolationForest as SklearnForest
from sklearn.neighbors import LocalOutlierFactor as SklearnLof
from sklearn.neural_network import MLPClassifier

from models.scoring import kind
from models.scoring.density import density_from_arrays, fit_density
from models.scoring.isolation import Neighbours
from models.scoring.isolation_forest import fit_isolation_forest, isolation_forest_from_arrays
from models.scoring.kind import fit_kind_guess, kind_guess_from_arrays
from models.scoring.local_outlier import fit_local_outlier_factor, local_outlier_factor_from_arrays

D = 12


@pytest.fixture(scope="module")
def clouds() -> tuple[np.ndarray, np.ndarray]:
    """Two clumps of different density, and queries in and between them."""
    random = np.random.default_rng(0)
    reference = np.concatenate([random.normal(0, 1, (700, D)), random.normal(6, 0.2, (300, D))])
    queries = np.concatenate([random.normal(0, 1.3, (200, D)), random.normal(6, 0.5, (200, D))])
    return reference.astype(np.float32), queries.astype(np.float32)


@pytest.mark.parametrize("k", [5, 50])
def test_outlier_factor_equals_scikit_learn(clouds, k: int) -> None:
    reference, queries = clouds
    neighbours = Neighbours(reference, k)
    arrays = fit_local_outlier_factor(neighbours, reference, k).arrays()
    found = local_outlier_factor_from_arrays(arrays, len(reference), k)(neighbours.search(queries, k + 7))
    wanted = -SklearnLof(n_neighbors=k, novelty=True).fit(reference).score_samples(queries)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_reference_objects_have_the_outlier_factor_of_a_fit(clouds) -> None:
    reference, _ = clouds
    neighbours = Neighbours(reference, 20)
    lof = fit_local_outlier_factor(neighbours, reference, 20)
    wanted = -SklearnLof(n_neighbors=20).fit(reference).negative_outlier_factor_
    # faiss expands |a - b|^2: in the dense clump, far from the origin, it may take another 20th neighbour.
    found = lof(neighbours.search(reference, 20))
    np.testing.assert_allclose(found, wanted, rtol=5e-3)
    assert (np.abs(found / wanted - 1) < 1e-5).mean() > 0.98


def test_outlier_factor_refuses_numbers_of_another_reference(clouds) -> None:
    reference, _ = clouds
    arrays = fit_local_outlier_factor(Neighbours(reference, 5), reference, 5).arrays()
    with pytest.raises(ValueError, match=r"lof_k_distance: got \(1000,\), expected \(999,\)"):
        local_outlier_factor_from_arrays(arrays, 999, 5)


def test_forest_equals_scikit_learn(clouds) -> None:
    reference, queries = clouds
    arrays = fit_isolation_forest(reference, 40, seed=3).arrays()
    assert all(array.dtype == np.float32 for array in arrays.values())
    found = isolation_forest_from_arrays(arrays, D)(queries)
    grown = SklearnForest(n_estimators=40, random_state=3).fit(reference)
    np.testing.assert_allclose(found, -grown.score_samples(queries), atol=1e-7)


def test_forest_goes_the_same_way_where_a_value_is_a_threshold(clouds) -> None:
    reference, _ = clouds
    forest = fit_isolation_forest(reference, 20, seed=1)
    grown = SklearnForest(n_estimators=20, random_state=1).fit(reference)
    on_threshold = np.repeat(reference[:1], 60, axis=0)
    for row, tree in enumerate([*grown.estimators_] * 3):
        node = np.flatnonzero(tree.tree_.feature >= 0)[row // 20]
        on_threshold[row, tree.tree_.feature[node]] = np.float32(tree.tree_.threshold[node])
    np.testing.assert_allclose(forest(on_threshold), -grown.score_samples(on_threshold), atol=1e-7)


def test_forest_refuses_nodes_of_other_latents(clouds) -> None:
    reference, _ = clouds
    arrays = fit_isolation_forest(reference, 5, seed=0).arrays()
    with pytest.raises(ValueError, match="forest_nodes: names what is not among 3 latents"):
        isolation_forest_from_arrays(arrays, 3)
    with pytest.raises(ValueError, match="forest_scale: got nothing"):
        isolation_forest_from_arrays({"forest_nodes": arrays["forest_nodes"]}, D)


def correlated(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaussians whose mean moves with one condition: values, conditions, true log density."""
    random = np.random.default_rng(seed)
    covariance = np.array([[1.0, 0.6, 0.0], [0.6, 1.0, 0.3], [0.0, 0.3, 0.5]])
    condition = random.uniform(-1, 1, rows)
    values = random.multivariate_normal(np.zeros(3), covariance, rows) + 3 * condition[:, None]
    log_density = stats.multivariate_normal(np.zeros(3), covariance).logpdf(values - 3 * condition[:, None])
    return values.astype(np.float32), condition[:, None].astype(np.float32), log_density


def test_density_of_moving_gaussians_is_found() -> None:
    values, conditions, _ = correlated(2000, 0)
    density = fit_density(values, conditions, seed=0)
    fresh, where, truth = correlated(1000, 1)
    found = density(fresh, where)
    assert abs((found - truth).mean()) < 0.1  # nats
    assert np.corrcoef(found, truth)[0, 1] > 0.9
    assert density(fresh, -where).mean() < found.mean() - 2  # ordinary elsewhere, not here
    again = density_from_arrays(density.arrays("x"), "x", 3, 1)
    np.testing.assert_array_equal(again(fresh, where), found)
    with pytest.raises(ValueError, match=r"x_scale: got \(2, 3\), expected \(2, 4\)|x_weights"):
        density_from_arrays(density.arrays("x"), "x", 4, 1)


def test_density_repeats_with_a_seed_and_leaves_the_global_generator_alone() -> None:
    values, conditions, _ = correlated(200, 0)
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    first, second = (fit_density(values, conditions, seed=2) for _ in range(2))
    assert torch.rand(1) == wanted
    np.testing.assert_array_equal(first(values, conditions), second(values, conditions))
    with pytest.raises(ValueError, match="19 reference rows are too few for a density"):
        fit_density(values[:19], conditions[:19], seed=0)


def test_kind_guess_equals_the_network_that_scikit_learn_trained() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 6))
    is_artefact = features[:, 0] + 0.5 * features[:, 1] ** 2 > 0.3
    guess = kind_guess_from_arrays(fit_kind_guess(features, is_artefact, seed=1).arrays(), 6)
    assert guess is not None
    network = MLPClassifier(
        (kind.NUM_HIDDEN,), alpha=kind.WEIGHT_DECAY, early_stopping=True, n_iter_no_change=5, max_iter=100,
        random_state=1,
    )  # fmt: skip
    scaled = (features - features.mean(0)) / features.std(0)
    wanted = network.fit(scaled, is_artefact).predict_proba(scaled)[:, 1]
    np.testing.assert_allclose(guess(features), wanted, atol=1e-5)
    assert ((guess(features) > 0.5) == is_artefact).mean() > 0.75
    assert np.isnan(guess(np.full((1, 6), np.nan)))[0]


def test_kind_guess_needs_both_kinds_and_all_of_its_arrays() -> None:
    features = np.random.default_rng(0).normal(size=(40, 3))
    with pytest.raises(ValueError, match="5 artefacts and 35 physical anomalies are too few"):
        fit_kind_guess(features, np.arange(40) < 5, seed=0)
    arrays = fit_kind_guess(features, features[:, 0] > 0, seed=0).arrays()
    assert kind_guess_from_arrays({}, 3) is None
    with pytest.raises(ValueError, match="kind_scale"):
        kind_guess_from_arrays(arrays, 4)
    with pytest.raises(ValueError, match="kind_out"):
        kind_guess_from_arrays({k: v for k, v in arrays.items() if k != "kind_out"}, 3)
