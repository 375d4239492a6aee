"""Morphology and power spectra of sets of images, measured on many cores: by Ray, as jobs do, or without."""

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.pool import AsyncResult, Pool
from typing import Any

import numpy as np

from engine.images.measures import measures, usable
from engine.images.morphology import MorphologyConfig, failures
from engine.images.power import stacked
from models.evaluation.distances import keep
from models.evaluation.table import SetMeasures, cuts_for
from models.evaluation.verdict import Value, Verdict

MEASURED_AS: dict[str, int] = {}
"""Part of the settings by which measures are kept: {"version": 2} and so on once `measure_piece` gives other numbers of
Sersic images than before, or what was kept before would be taken for them."""

Piece = tuple[list[int], np.ndarray]
"""Identifiers and images [B, C, S, S]."""

Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""Calls a function on each item somewhere, and gives the results in order."""


@contextmanager
def mapper(workers: int, by_ray: bool) -> Iterator[Mapper]:
    """Give what shares work between `workers` processes: of Ray (a cluster's, if RAY_ADDRESS names one), or of a pool."""
    if not by_ray:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            yield partial(_in_order, pool, 2 * workers)
        return
    from engine import cluster
    from engine.pipeline import map_tasks

    with cluster.connect(cluster.ClusterConfig(num_cpus=workers)):
        yield map_tasks


def _in_order(pool: Pool, ahead: int, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Call a function in a pool, a few items ahead of what is taken: `imap` would read all of them at once."""
    pending = deque[AsyncResult[Any]]()
    for item in items:
        pending.append(pool.apply_async(function, (item,)))
        if len(pending) == ahead:
            yield pending.popleft().get()
    while pending:
        yield pending.popleft().get()


def measures_of(
    pieces: Iterable[Piece], settings: MorphologyConfig, mapped: Mapper, name: str
) -> SetMeasures:
    """Measure a set of usable images, and say how fast it was; `tell` says how many failed."""
    began = time.monotonic()
    parts = list(mapped(partial(measure_piece, settings), pieces))
    if not parts:
        raise SystemExit(f"{name}: no image in it that can be measured")
    morphology = {key: np.concatenate([part[0][key] for part in parts]) for key in parts[0][0]}
    spectra = stacked(part[1] for part in parts)
    print(
        f"{name}: {len(spectra)} images, {len(spectra) / (time.monotonic() - began):.2f} a second", flush=True
    )
    return SetMeasures(morphology, spectra)


def tell(name: str, measured: SetMeasures, size: int) -> None:
    """Say how many images of a set failed and are left out, whether it was measured now or before."""
    print(f"{name}: {measured.num_unusable} images left out before, not finite or constant")
    if len(measured):
        print(f"  flags: {failures(dict(measured.morphology))}")
        print(f"  {keep(measured.morphology, cuts_for(size)).told}", flush=True)


def only_usable(piece: Piece) -> Piece:
    """Leave out what `usable` says nothing can be measured of."""
    ids, images = piece
    good = usable(images)
    return [one for one, is_good in zip(ids, good, strict=True) if is_good], images[good]


def or_none(make: Callable[[], dict[str, Value]], what: str) -> dict[str, Value]:
    """Return what is measured, or say why there is nothing of it: too few images, say."""
    try:
        return make()
    except ValueError as error:
        print(f"no {what}: {error}")
        return {}


def measured_of(what: str, found: Verdict) -> dict[str, Value]:
    """Return what a verdict has, and say which groups it lacks and why."""
    for line in found.told:
        print(f"{what}: {line}", flush=True)
    return found.values


def measure_piece(settings: MorphologyConfig, piece: Piece) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Morphology, colours and power spectra of some images."""
    ids, images = piece
    return measures(images, ids, settings)
