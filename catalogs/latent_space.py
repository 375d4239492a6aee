"""What a latent space knows although nobody told it: classes apart, properties to be read off, paths along them."""

# N rows, D latents, S steps of a track

from dataclasses import dataclass, field

import numpy as np

NUM_NEIGHBOURS = 10
MAX_ROWS = 4000
"""Rows that distances between all pairs are computed of."""
MIN_MEMBERS = 20
"""Rows that a class needs to be counted."""
NUM_FOLDS = 5
STEP_WIDTH = 0.06
"""Width of the kernel of a track in ranks: a step is a mean of about a seventh of the objects."""


@dataclass(frozen=True)
class Separation:
    """How far classes lie apart.

    Parameters
    ----------
    num_rows, num_classes
        That were looked at.
    silhouette
        Mean silhouette, -1 to 1; 0: no clusters.
    purity
        Mean share of the nearest neighbours that are of the same class.
    chance
        What purity would be if classes were shuffled.
    by_class
        Purity of each class, and its number of rows.
    """

    num_rows: int
    num_classes: int
    silhouette: float
    purity: float
    chance: float
    by_class: dict[str, tuple[float, int]]


@dataclass(frozen=True)
class Regression:
    """How well a property can be read off: coefficients of determination on rows that were left out."""

    num_rows: int
    linear: float
    neighbours: float


@dataclass(frozen=True, eq=False)
class Track:
    """A path through latent space along a property.

    Parameters
    ----------
    name, title, unit
        Of the property.
    value
        Mean of the property at each step, [S], increasing.
    latent
        [S, D].
    wave, flux
        Decoded spectra: wavelengths [L] in the model's frame [Angstrom], fluxes [S, L] in units of the norm, NaN where hardly
        any of the objects has data.
    redshift
        About which the objects are, 0 where the frame is that of rest.
    num_objects
        Of the path.
    zoom
        Rest-frame wavelengths [Angstrom] where the property shows.
    """

    name: str
    title: str
    unit: str
    value: np.ndarray
    latent: np.ndarray
    wave: np.ndarray
    flux: np.ndarray
    redshift: float
    num_objects: int
    zoom: tuple[float, float]


@dataclass
class Evidence:
    """What was found by reading a sample of spectra again.

    Parameters
    ----------
    tracks
        Paths with decoded spectra.
    regressions
        How well what was measured can be read off, by what it is.
    notes
        What to say of tracks that are not there.
    """

    tracks: list[Track] = field(default_factory=list)
    regressions: dict[str, Regression] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def separation(latent: np.ndarray, label: np.ndarray, seed: int = 0) -> Separation | None:
    """Measure how far classes lie apart that took no part in training.

    Parameters
    ----------
    latent
        [N, D] finite.
    label
        [N] text; rows without any, and of classes of fewer than `MIN_MEMBERS`, do not count.
    seed
        Of the choice of at most `MAX_ROWS` rows.

    Returns
    -------
    separation
        None if fewer than two classes are left.

    References
    ----------
    Rousseeuw (1987), J. Comp. Appl. Math. 20, 53: silhouettes.
    """
    from sklearn.metrics import silhouette_score
    from sklearn.neighbors import NearestNeighbors

    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(label.astype(str) != ""))[:MAX_ROWS]
    names, counts = np.unique(label[chosen].astype(str), return_counts=True)
    kept = set(names[counts >= MIN_MEMBERS].tolist())
    chosen = np.array([i for i in chosen if str(label[i]) in kept], int)
    if len(kept) < 2:
        return None
    points, classes = latent[chosen], label[chosen].astype(str)
    _, nearest = NearestNeighbors(n_neighbors=NUM_NEIGHBOURS + 1).fit(points).kneighbors(points)
    same = (classes[nearest[:, 1:]] == classes[:, None]).mean(1)
    members = {name: classes == name for name in sorted(kept)}
    shares = [is_in.mean() for is_in in members.values()]
    return Separation(
        len(chosen), len(kept), float(silhouette_score(points, classes)), float(same.mean()),
        float(np.square(shares).sum()), {name: (float(same[is_in].mean()), int(is_in.sum())) for name, is_in in members.items()},
    )  # fmt: skip


def regression(latent: np.ndarray, value: np.ndarray, seed: int = 0) -> Regression | None:
    """Read a property off the latent coordinates, by a plane and by the mean of neighbours.

    Parameters
    ----------
    latent
        [N, D] finite.
    value
        [N]; rows where it is not finite do not count.
    seed
        Of the folds.

    Returns
    -------
    regression
        On `NUM_FOLDS` folds, each predicted from the others; None with fewer than `MIN_MEMBERS` rows, or if
        the property is the same everywhere.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.neighbors import KNeighborsRegressor

    kept = np.random.default_rng(seed).permutation(np.flatnonzero(np.isfinite(value)))[:MAX_ROWS]
    points, wanted = latent[kept].astype(np.float64), value[kept].astype(np.float64)
    if len(kept) < MIN_MEMBERS or np.ptp(wanted) == 0:
        return None
    folds = KFold(NUM_FOLDS, shuffle=True, random_state=seed)
    models = (RidgeCV(np.geomspace(1e-3, 1e3, 7)), KNeighborsRegressor(NUM_NEIGHBOURS, weights="distance"))
    errors = [
        np.square(cross_val_predict(model, points, wanted, cv=folds) - wanted).mean() for model in models
    ]
    linear, neighbours = (float(1 - error / wanted.var()) for error in errors)
    return Regression(len(kept), linear, neighbours)


def path_weights(value: np.ndarray, num_steps: int) -> np.ndarray:
    """Weights of objects at the steps of a path along a property: those whose rank in it is about that of the step.

    A path is then `weights @ latent`, the property on it `weights @ value`. In ranks, so that neither outliers nor a
    property that spans decades bend it.

    Parameters
    ----------
    value
        [N] finite.
    num_steps
        S, at least 2, from the 5th to the 95th percentile.

    Returns
    -------
    weights
        [S, N], a Gaussian kernel of `STEP_WIDTH`; each row sums to 1.

    References
    ----------
    Nadaraya (1964), Theory Prob. Appl. 9, 141: the kernel mean.
    """
    rank = np.empty(len(value))
    rank[np.argsort(value, kind="stable")] = (np.arange(len(value)) + 0.5) / len(value)
    weights = np.exp(-0.5 * np.square((rank - np.linspace(0.05, 0.95, num_steps)[:, None]) / STEP_WIDTH))
    return weights / weights.sum(1, keepdims=True)
