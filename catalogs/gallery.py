"""An object of a gallery: what its model was given and what the model made of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class GalleryItem:
    """One object of a catalogue, to be drawn by `CatalogSpec.draw`.

    Parameters
    ----------
    key
        Values of the catalogue's key columns.
    inputs
        Columns of its row as the model read them, by name.
    outputs
        What `ModelSpec.reconstruct` gives for it, by name.
    prepare
        Settings of the preparation, e.g. an `engine.spectra.prepare.SpectrumPrep`.
    choice
        Which of the catalogue's choices it is shown for.
    """

    key: tuple[Any, ...]
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    prepare: Any
    choice: int = 0
