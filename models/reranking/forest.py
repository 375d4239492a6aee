"""Predictions of a small random forest for a great many rows.

A forest that has learned from a few dozen labels is a function of few thresholds, so that most of what a walk down
200 trees does is done ahead. For each feature and each interval between thresholds a table holds, one bit a leaf,
which leaves of each tree can still be reached; a row takes one line of the table for each feature, and the first bit
that is left of their conjunction is its leaf. No branches, and the lines of all trees of a block lie side by side.

References
----------
Lucchese et al. (2015), SIGIR '15, 73 (QuickScorer): leaves as bits, the leaf as the first one left. Ours differs: the
conjunction over the thresholds that a value exceeds is precomputed, which pays because there are few.
"""

# B rows, D features, T trees, W words of 64 leaves a tree, N thresholds of a feature

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

TABLE_BYTES = 512 << 10
"""Size of the table of a block of trees: a part of a core's cache."""

LEAVES_A_WORD = 64
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
"""Multiplied with a single bit its six highest bits name the bit (Leiserson, Prokop & Randall 1998)."""


@dataclass(frozen=True, eq=False)
class _Tree:
    """A tree as intervals of leaves, numbered from left to right.

    `feature` and `threshold` [nodes] of its inner nodes; `first` and `last` [nodes] leaves that are out of reach where a
    value is above the threshold: those below the left child. `values` [leaves].
    """

    feature: np.ndarray
    threshold: np.ndarray
    first: np.ndarray
    last: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class _Block:
    """Trees whose table fits the cache.

    `features` [G] that they ask for; `lines` [G, N + 1] the line of the table for each interval of a feature's values;
    `table` [lines, T * W] bits; `values` [T, 64 W] of leaves, in the order in which `_DE_BRUIJN` names bits.
    """

    features: np.ndarray
    lines: np.ndarray
    table: np.ndarray
    values: np.ndarray


class CompiledForest:
    """A fitted regression forest, laid out for speed.

    Parameters
    ----------
    forest
        `sklearn.ensemble.RandomForestRegressor` with one output, fitted to finite features.
    """

    def __init__(self, forest: Any) -> None:
        trees = [_tree(estimator.tree_) for estimator in forest.estimators_]
        self.num_features = int(forest.n_features_in_)
        self._num_trees = len(trees)
        self._thresholds = _thresholds(trees, self.num_features)
        self._starts = np.cumsum([0, *map(len, self._thresholds)])
        self._joined = np.concatenate(self._thresholds)
        self._blocks = [_block(part, self._thresholds) for part in _parts(trees)]
        self.bytes_per_row = sum(
            block.table.itemsize * len(block.features) * block.table.shape[1] for block in self._blocks
        )

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Mean prediction of the trees.

        Parameters
        ----------
        features
            [B, D] float32, finite.

        Returns
        -------
        numpy.ndarray
            float64 [B]: those of scikit-learn, but for the order in which trees are summed.
        """
        features = np.ascontiguousarray(features, np.float32)
        intervals = np.empty(features.shape, np.int32)
        _find_intervals(features, self._joined, self._starts, intervals)
        total = np.zeros(len(features))
        for block in self._blocks:
            _add_block(intervals, block.features, block.lines, block.table, block.values, total)
        return total / self._num_trees


def _tree(tree: Any) -> _Tree:
    """Lay a tree of scikit-learn out, its leaves numbered from left to right."""
    left, right = tree.children_left, tree.children_right
    first, last = np.zeros((2, tree.node_count), np.int64)
    leaves: list[int] = []
    pending = [(0, False)]
    while pending:
        node, is_done = pending.pop()
        if is_done:
            last[node] = len(leaves)
            continue
        first[node] = len(leaves)
        pending.append((node, True))
        if left[node] < 0:
            leaves.append(node)
        else:
            pending += [(int(right[node]), False), (int(left[node]), False)]
    inner = np.flatnonzero(left >= 0)
    below = left[inner]
    return _Tree(
        tree.feature[inner], tree.threshold[inner], first[below], last[below], tree.value[leaves, 0, 0]
    )


def _thresholds(trees: list[_Tree], num_features: int) -> list[np.ndarray]:
    """Sorted thresholds of each feature over all trees."""
    return [
        np.unique(np.concatenate([tree.threshold[tree.feature == f] for tree in trees]))
        for f in range(num_features)
    ]


def _parts(trees: list[_Tree]) -> list[list[_Tree]]:
    """Cut the forest into runs of trees whose tables are small."""
    parts: list[list[_Tree]] = []
    num_lines = 0
    for tree in trees:
        num_words = _num_words([*(parts[-1] if parts else []), tree])
        size = 8 * (num_lines + len(tree.feature)) * num_words * (len(parts[-1]) + 1 if parts else 1)
        if not parts or size > TABLE_BYTES:
            parts.append([])
            num_lines = 0
        parts[-1].append(tree)
        num_lines += len(tree.feature)
    return parts


def _num_words(trees: list[_Tree]) -> int:
    return -(-max(len(tree.values) for tree in trees) // LEAVES_A_WORD)


def _block(trees: list[_Tree], thresholds: list[np.ndarray]) -> _Block:
    num_words = _num_words(trees)
    used = np.unique(np.concatenate([tree.feature for tree in trees])).astype(np.int64)
    if not len(used):
        used = np.zeros(1, np.int64)  # trees that are a single leaf: one line for all values of some feature
    lines = np.zeros((len(used), max(len(thresholds[f]) for f in used) + 1), np.int64)
    table: list[np.ndarray] = []
    for row, feature in enumerate(used):
        own = [tree.threshold[tree.feature == feature] for tree in trees]
        edges = np.unique(np.concatenate(own))
        passed = np.searchsorted(edges, thresholds[feature], "right")  # of the own edges, below each of all
        lines[row, : len(passed) + 1] = sum(map(len, table)) + np.concatenate([[0], passed])
        table.append(_lines(trees, feature, edges, num_words))
    return _Block(used, lines, np.concatenate(table), np.stack([_values(tree, num_words) for tree in trees]))


def _lines(trees: list[_Tree], feature: np.integer, edges: np.ndarray, num_words: int) -> np.ndarray:
    """Leaves in reach, by interval of a feature between `edges`: uint64 [edges + 1, T W]."""
    reach = np.ones((len(edges) + 1, len(trees), num_words * LEAVES_A_WORD), bool)
    for index, tree in enumerate(trees):
        for node in np.flatnonzero(tree.feature == feature):
            above = int(np.searchsorted(edges, tree.threshold[node])) + 1
            reach[above:, index, tree.first[node] : tree.last[node]] = False
    bits = np.packbits(reach, axis=2, bitorder="little")
    return bits.view("<u8").astype(np.uint64).reshape(len(edges) + 1, -1)


def _values(tree: _Tree, num_words: int) -> np.ndarray:
    """Values of leaves where `_DE_BRUIJN` finds them."""
    bits = np.uint64(1) << np.arange(LEAVES_A_WORD, dtype=np.uint64)
    slots = (bits * _DE_BRUIJN) >> np.uint64(58)
    values = np.zeros((num_words, LEAVES_A_WORD))
    padded = np.zeros(num_words * LEAVES_A_WORD)
    padded[: len(tree.values)] = tree.values
    values[:, slots.astype(np.int64)] = padded.reshape(num_words, LEAVES_A_WORD)
    return values.reshape(-1)


@numba.njit(cache=True, nogil=True)
def _find_intervals(
    features: np.ndarray, thresholds: np.ndarray, starts: np.ndarray, intervals: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Count the thresholds that each value exceeds; a tree goes right where a value is above."""
    for row in range(features.shape[0]):
        for column in range(features.shape[1]):
            value = np.float64(features[row, column])
            first, count = starts[column], starts[column + 1] - starts[column]
            begin = first
            while count > 0:
                half = count >> 1
                is_above = thresholds[begin + half] < value
                begin = begin + half + 1 if is_above else begin
                count = count - half - 1 if is_above else half
            intervals[row, column] = begin - first


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "nsz"})
def _add_block(
    intervals: np.ndarray,
    features: np.ndarray,
    lines: np.ndarray,
    table: np.ndarray,
    values: np.ndarray,
    total: np.ndarray,
) -> None:  # pragma: no cover - compiled
    """Add the predictions of the trees of a block."""
    num_trees, num_slots = values.shape
    num_words = num_slots // 64
    flat = values.reshape(-1)
    reach = np.empty(table.shape[1], np.uint64)
    for row in range(intervals.shape[0]):
        reach[:] = table[lines[0, intervals[row, features[0]]]]
        for index in range(1, features.shape[0]):
            line = table[lines[index, intervals[row, features[index]]]]
            for word in range(reach.shape[0]):
                reach[word] &= line[word]
        added = 0.0
        if num_words == 1:
            for tree in range(num_trees):
                left = reach[tree]
                slot = ((left & (~left + np.uint64(1))) * _DE_BRUIJN) >> np.uint64(58)
                added += flat[np.uint64(tree) * np.uint64(64) + slot]
        else:
            for tree in range(num_trees):
                word = tree * num_words
                while reach[word] == 0:
                    word += 1
                left = reach[word]
                slot = ((left & (~left + np.uint64(1))) * _DE_BRUIJN) >> np.uint64(58)
                added += flat[np.uint64(word) * np.uint64(64) + slot]
        total[row] += added
