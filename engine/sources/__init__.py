"""Kinds of releases that can be read, by the name that a configuration gives them."""

from engine.sources.base import Source
from engine.sources.desi import DesiSource
from engine.sources.galaxy_colour import ColourSource
from engine.sources.galaxy_cosmos import CosmosSource
from engine.sources.galaxy_cubes import CubesSource
from engine.sources.galaxy_files import SheraSource, SkirtSource
from engine.sources.nircam import NircamSource
from engine.sources.sdss import SdssSource
from engine.sources.stamps import StampsSource

SOURCES: dict[str, type[Source]] = {
    "desi": DesiSource,
    "sdss": SdssSource,
    "nircam": NircamSource,
    "stamps": StampsSource,
    "sersic": CubesSource,
    "cosmos": CosmosSource,
    "shera": SheraSource,
    "skirt": SkirtSource,
    "colour": ColourSource,
}
"""Name to class; see `engine.sources.base.Source` for what each can do."""
