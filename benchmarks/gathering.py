"""What is kept of a set of images once it was gone through: measures and features, and no image.

Of 50,000 images of 256 pixels and one channel that is, a set: pooled features 13 MB, spectra 73 MB, and 410 MB of
features where the seed's network is asked for. Distances and their draws take a few times that; on the way to be measured
are a few pieces of 2 MB a worker, and what a source reads at once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.measuring import Mapper, Piece, measures_of, only_usable
from engine.images.morphology import MorphologyConfig
from engine.images.nearest import NearestConfig, features
from models.evaluation.frechet import Extract
from models.evaluation.table import SetMeasures


@dataclass(frozen=True)
class Gathered:
    """Of a set of images.

    Parameters
    ----------
    measures
        Of the N usable images that are compared.
    all_pooled
        `engine.images.nearest.features` of all that are usable: these, and others after them where there are more.
    deep
        Features of these by the seed's network, [N, D], where it is given.
    """

    measures: SetMeasures
    all_pooled: np.ndarray
    deep: np.ndarray | None

    @property
    def pooled(self) -> np.ndarray:
        """Features of the images that are compared, [N, F]."""
        return self.all_pooled[: len(self.measures)]


class Passing:
    """The usable images of a set on their way to be measured; what is small is taken of them as they pass.

    Parameters
    ----------
    pieces
        The set.
    space
        Of the features that are taken of all.
    extract
        Gives other features [B, D] of images [B, C, S, S] that are measured; None: there are none.
    most
        As many are measured, the first ones; the others are only taken features of.
    """

    def __init__(
        self, pieces: Iterable[Piece], space: NearestConfig, extract: Extract | None, most: int | None
    ) -> None:
        self.pieces, self.space, self.extract, self.most = pieces, space, extract, most
        self.num_unusable = 0
        self.pooled, self.deep = list[np.ndarray](), list[np.ndarray]()

    def __iter__(self) -> Iterator[Piece]:
        """Yield pieces to measure."""
        left = self.most
        for piece in self.pieces:
            ids, images = only_usable(piece)
            self.num_unusable += len(piece[1]) - len(images) if left != 0 else 0
            self.pooled.append(features(images, self.space))
            taken = images[:left]
            if not len(taken):
                continue
            if self.extract:
                self.deep.append(self.extract(taken).astype(np.float32))
            left = None if left is None else left - len(taken)
            yield ids[: len(taken)], taken


def gathered(
    name: str,
    pieces: Iterable[Piece],
    settings: MorphologyConfig,
    mapped: Mapper,
    space: NearestConfig,
    extract: Extract | None = None,
    most: int | None = None,
) -> Gathered:
    """Go through a set once: measure it elsewhere, and take here what `Passing` takes."""
    passing = Passing(pieces, space, extract, most)
    measures = replace(measures_of(passing, settings, mapped, name), num_unusable=passing.num_unusable)
    deep = np.concatenate(passing.deep) if extract else None
    return Gathered(measures, np.concatenate(passing.pooled), deep)
