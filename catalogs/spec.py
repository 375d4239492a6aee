"""What the rest of the project must know of a catalogue."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engine.column import Column


@dataclass(frozen=True)
class CatalogSpec:
    """One kind of published catalogue.

    Parameters
    ----------
    name
        Registry name.
    title
        What a reader calls it.
    summary
        Two or three sentences: what a row is and what the catalogue is for.
    key
        Columns that name a row; unique over a version.
    prefer
        Which of several rows of one key is kept: the first by these columns, "-" for largest first.
    score
        Column that ranks the rows, largest first: -log10 of a probability.
    score_parts
        Columns that `score` is the highest of, and of how many calibrated scores each is the highest by default.
    latent
        Column with the coordinates in latent space.
    finite
        Columns that hold neither NaN nor infinity.
    percentile_suffix
        How names of columns that lie between 0 and 100 end.
    columns
        `model columns -> published columns`, `_healpix_29` first.
    examples
        Pairs (question, SQL) that run on every version.
    """

    name: str
    title: str
    summary: str
    key: tuple[str, ...]
    prefer: tuple[str, ...]
    score: str
    score_parts: Mapping[str, int]
    latent: str
    finite: tuple[str, ...]
    percentile_suffix: str
    columns: Callable[[Sequence[Column]], tuple[Column, ...]]
    examples: tuple[tuple[str, str], ...]
