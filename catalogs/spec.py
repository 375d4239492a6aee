"""What the rest of the project must know of a catalogue."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from catalogs.gallery import GalleryItem
from engine.column import Column
from engine.flags import Flag
from engine.partition import HEALPIX
from engine.rows import FLAGS


def published_columns(
    source: Sequence[Column], hidden: Collection[str], model: Sequence[Column]
) -> tuple[Column, ...]:
    """Columns of a catalogue: `_healpix_29`, those of the source that are not hidden, those of the model.

    A column of the model may replace one of the source, which keeps its place; `flags` stays the source's.
    """
    by_name = {column.name: column for column in (HEALPIX, *source) if column.name not in hidden}
    by_name |= {column.name: column for column in model if column.name != FLAGS.name}
    return tuple(by_name.values())


@dataclass(frozen=True)
class Choice:
    """Objects that a report draws.

    Parameters
    ----------
    title
        What is said above them; empty if there is but one choice.
    rows
        SQL of a table with the columns of `ranked`, with `{n}` where the number of rows goes.
    """

    title: str
    rows: str


MOST_ANOMALOUS = Choice("", "top({n})")


@dataclass(frozen=True)
class Classes:
    """Columns of a catalogue of two classes.

    Parameters
    ----------
    probability
        Of class 1.
    predicted, label
        Class as predicted and as given: 1, 0, or -1 where there is none.
    names
        Of classes 0 and 1, in the plural.
    redshift
        Column that the fraction of class 1 is shown against.
    untrusted
        Flags of rows that the fraction leaves out.
    """

    probability: str
    predicted: str
    label: str
    names: tuple[str, str]
    redshift: str = "z"
    untrusted: tuple[Flag, ...] = ()

    @property
    def untrusted_bits(self) -> int:
        """The flags as one number to test `flags` with."""
        return sum(flag.value for flag in self.untrusted)


@dataclass(frozen=True)
class CatalogSpec:
    """One kind of published catalogue.

    Parameters
    ----------
    name
        Registry name.
    model
        Name of the model whose scores it publishes, a key of `models.MODELS`.
    title
        What a reader calls it.
    summary
        Two or three sentences: what a row is and what the catalogue is for.
    key
        Columns that name a row; unique over a version.
    prefer
        Which of several rows of one key is kept: the first by these columns, "-" for largest first.
    score
        Column that ranks the rows, largest first.
    upstream
        Models that are applied before it where there are checkpoints of them; their columns are published too.
    rank
        Name of the rank in the view `ranked`.
    ranking
        What the first ranks are called, e.g. "Most anomalous".
    score_parts
        Columns that `score` is the highest of, and of how many -log10 p of single scores each is the highest itself where
        the checkpoint does not say (`CheckpointFacts.score_parts`); empty if it is something else.
    latent
        Column with the coordinates in latent space; empty if there is none.
    colour_by
        Column of classes that the map of latent space is coloured by.
    finite
        Columns that hold neither NaN nor infinity.
    percentile_suffix
        How names of columns that lie between 0 and 100 end.
    columns
        `model columns -> published columns`, `_healpix_29` first.
    examples
        Pairs (question, SQL) that run on every version; the first shows the ten most anomalous objects.
    predicted_bands
        Bands whose fluxes the model predicts, `{band}` of the columns `flux_{band}`, `flux_error_{band}`,
        `mag_residual_{band}` and `flux_residual_sigma_{band}`; empty if it predicts none.
    groups
        Columns that rates of outliers are given by, and what a member of a group is called.
    template
        Jinja macros `head`, `cells`, `legend`, `pictures`, `title` and `facts` for the report's table and gallery.
    draw
        `(item, row of the catalogue) -> data: URI of a PNG` for the gallery.
    choices
        What the gallery shows.
    classes
        Columns of classes, None if it has none.
    other_models
        Names of models that write the same columns as `model`, whose scores it publishes as well.
    """

    name: str
    model: str
    title: str
    summary: str
    key: tuple[str, ...]
    prefer: tuple[str, ...]
    score: str
    score_parts: Mapping[str, int]
    latent: str
    colour_by: str
    finite: tuple[str, ...]
    percentile_suffix: str
    columns: Callable[[Sequence[Column]], tuple[Column, ...]]
    examples: tuple[tuple[str, str], ...]
    predicted_bands: tuple[str, ...]
    groups: tuple[tuple[str, str], ...]
    template: str
    draw: Callable[[GalleryItem, Mapping[str, Any]], str]
    upstream: tuple[str, ...] = ()
    rank: str = "anomaly_rank"
    ranking: str = "Most anomalous"
    choices: tuple[Choice, ...] = (MOST_ANOMALOUS,)
    classes: Classes | None = None
    other_models: tuple[str, ...] = ()

    def publishes(self, model: str) -> bool:
        """Whether it publishes scores of a model."""
        return model in (self.model, *self.other_models)
