"""Isolation forest as arrays: grown by scikit-learn, kept without pickle, scored for many objects at once.

References
----------
Liu, Ting & Zhou (2008), "Isolation Forest", ICDM, Eqs. 1 and 2. Equal to scikit-learn's `score_samples`, with the
sign that means anomalous.
"""

# T trees, M nodes of the largest, B objects, D latents

from collections.abc import Mapping
from typing import Any

import numpy as np

FIELDS = ("feature", "threshold", "left", "right", "length")
"""Of a node: latent that it asks for, value up to which one goes left, where left and right lead, and for a leaf the
path length that ends there. A leaf leads to itself."""


class IsolationForest:
    """Trees [T, M], all padded to the largest.

    Parameters
    ----------
    nodes
        [5, T, M], the `FIELDS` of each node.
    shape
        Depth of the deepest tree, and the mean path length c(n) of Eq. 1 that lengths are compared with.
    """

    def __init__(self, nodes: np.ndarray, depth: int, mean_length: float) -> None:
        feature, threshold, left, right, length = nodes
        first = (
            np.arange(nodes.shape[1])[:, None] * nodes.shape[2]
        )  # of each tree, where trees lie end to end
        self._feature, self._threshold = feature.ravel().astype(np.intp), threshold.ravel()
        self._next = np.stack([(side + first).ravel() for side in (right, left)], 1).astype(np.intp).ravel()
        self._length, self._first = length.ravel().astype(np.float64), first.ravel().astype(np.intp)
        self._nodes, self._depth, self._mean_length = nodes, depth, mean_length

    def __call__(self, latents: np.ndarray) -> np.ndarray:
        """Anomaly score (Eq. 2) of [B, D] latents, [B] float32 in (0, 1]; near 1 where few cuts isolate."""
        values = np.ascontiguousarray(latents, np.float32)
        node = np.tile(self._first, (len(values), 1))
        row = np.arange(len(values))[:, None]
        for _ in range(self._depth):
            goes_left = values[row, self._feature[node]] <= self._threshold[node]
            node = self._next[2 * node + goes_left]
        return np.exp2(-self._length[node].mean(1) / self._mean_length).astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint keeps."""
        return {
            "forest_nodes": self._nodes.astype(np.float32),
            "forest_scale": np.array([self._depth, self._mean_length], np.float32),
        }


def fit_isolation_forest(latents: np.ndarray, num_trees: int, seed: int) -> IsolationForest:
    """Grow trees on [N, D] latents: 256 objects a tree, as the paper does."""
    from sklearn.ensemble import IsolationForest as Grower

    grown = Grower(n_estimators=num_trees, random_state=seed).fit(latents)
    trees = [estimator.tree_ for estimator in grown.estimators_]
    nodes = np.zeros((len(FIELDS), len(trees), max(tree.node_count for tree in trees)))
    for index, tree in enumerate(trees):
        nodes[:, index, : tree.node_count] = _node_table(tree)
    depth = max(tree.max_depth for tree in trees)
    mean_length = float(_mean_path_length(np.array([grown.max_samples_]))[0])
    return IsolationForest(nodes.astype(np.float32), depth, mean_length)


def isolation_forest_from_arrays(arrays: Mapping[str, np.ndarray], num_latent: int) -> IsolationForest:
    """Make it of what `arrays` gave.

    Raises
    ------
    ValueError
        If they are missing, of other shapes, or of other latents.
    """
    for name, ndim in (("forest_nodes", 3), ("forest_scale", 1)):
        found = arrays.get(name)
        if found is None or found.ndim != ndim:
            got = "nothing" if found is None else str(found.shape)
            raise ValueError(f"{name}: got {got}, expected {ndim} dimensions; fit the scores anew")
    nodes, (depth, mean_length) = arrays["forest_nodes"], arrays["forest_scale"]
    feature, _, left, right, _ = nodes
    if (
        feature.max() >= num_latent
        or max(left.max(), right.max()) >= nodes.shape[2]
        or nodes[[0, 2, 3]].min() < 0
    ):
        raise ValueError(f"forest_nodes: names what is not among {num_latent} latents or its own nodes")
    return IsolationForest(nodes, int(depth), float(mean_length))


def _node_table(tree: Any) -> np.ndarray:
    """Fields [5, nodes] of a tree of scikit-learn."""
    is_leaf = tree.children_left < 0
    own = np.arange(tree.node_count)
    # Latents are float32: compared with the next float32 below a threshold they go the same way.
    threshold = tree.threshold.astype(np.float32)
    above = threshold > tree.threshold
    threshold[above] = np.nextafter(threshold[above], np.float32(-np.inf))
    length = _node_depth(tree) + _mean_path_length(tree.n_node_samples)
    return np.stack(
        [
            np.where(is_leaf, 0, tree.feature),
            np.where(is_leaf, 0, threshold),
            np.where(is_leaf, own, tree.children_left),
            np.where(is_leaf, own, tree.children_right),
            np.where(is_leaf, length, 0),
        ]
    )


def _node_depth(tree: Any) -> np.ndarray:
    """Edges from the root to each node; children come after their parents."""
    depth = np.zeros(tree.node_count)
    for node in np.flatnonzero(tree.children_left >= 0):
        depth[[tree.children_left[node], tree.children_right[node]]] = depth[node] + 1
    return depth


def _mean_path_length(num: np.ndarray) -> np.ndarray:
    """Mean path length c(n) of a failed search in a binary tree of n objects (Eq. 1)."""
    several = np.maximum(num.astype(np.float64), 2.0)
    mean = 2 * (np.log(np.maximum(several - 1, 1)) + np.euler_gamma) - 2 * (several - 1) / several
    return np.select([num <= 1, num == 2], [0.0, 1.0], mean)
