"""Sets of images to measure: folders in the layout of a source, or what our own jobs have published or staged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.measuring import Piece
from engine.commit import read_manifest
from engine.commit.manifest import version_numbers
from engine.images.own_size import SIZE_CHANNEL
from engine.schema import matrix
from engine.sources import SOURCES
from engine.storage import Storage
from engine.train.batches import read_tables

PIECE = 8
"""Images that a worker takes at once."""
ROWS = 64
"""Rows that are read at once."""
COLUMNS = ("image", "science")
"""Columns of published rows that hold images, the first of them that there is."""


@dataclass(frozen=True)
class ImageFiles:
    """A set of images, read piece by piece whenever it is gone through.

    Parameters
    ----------
    uri
        Where.
    source
        Its layout, unless a catalogue is published there.
    size
        Pixels a side.
    channels
        Which of several are taken, by number; all if there are none. A set with one channel has only that.
    limit
        Most images.
    """

    uri: str
    source: str = "sersic"
    size: int = 256
    num_channels: int = 1
    channels: Sequence[int] = ()
    limit: int | None = None

    def __iter__(self) -> Iterator[Piece]:
        """Yield identifiers and images [B, C, S, S], `PIECE` at most at once; what is rejected is told."""
        is_published, left = bool(version_numbers(self.uri, Storage())), self.limit
        for ids, images in self._published() if is_published else self._of_source():
            images = self._chosen(images)[:left]
            left = None if left is None else left - len(images)
            for start in range(0, len(images), PIECE):
                yield ids[start : min(start + PIECE, len(images))], images[start : start + PIECE]
            if left == 0:
                return

    def _of_source(self) -> Iterator[Piece]:
        kind = SOURCES[self.source]
        wanted = {"size": self.size}
        if "channels" in kind.config_class.model_fields:
            wanted["channels"] = self.num_channels
        num = SIZE_CHANNEL + 1 if self.source == "skirt" else self.num_channels
        opened = kind(self.uri, config=kind.config_class(**wanted))
        for unit in opened.plan():
            table = opened.read(unit)
            if table.rejected.num_rows:
                print(f"{unit.key}: {table.rejected['reason'].value_counts().to_pylist()}")
            images = matrix(table.rows, "image").reshape(-1, num, self.size, self.size)
            yield table.rows["object_id"].to_pylist(), images

    def _published(self) -> Iterator[Piece]:
        storage = Storage()
        manifest = read_manifest(self.uri, storage)
        lengths = {column["name"]: column["length"] for column in manifest.columns}
        name = next((one for one in COLUMNS if one in lengths), "")
        if not name:
            raise SystemExit(
                f"{self.uri}: has no column {' or '.join(COLUMNS)}, there are {', '.join(lengths)}"
            )
        num, rest = divmod(lengths[name], self.size**2)
        if rest or not num:
            raise SystemExit(
                f"{self.uri}: {lengths[name]} values an image are no channels of {self.size} x {self.size}: name --size"
            )
        uris = [storage.join(self.uri, path) for path in sorted(manifest.paths("data"))]
        for table in read_tables(uris, ["object_id", name], storage, ROWS):
            yield table["object_id"].to_pylist(), matrix(table, name).reshape(-1, num, self.size, self.size)

    def _chosen(self, images: np.ndarray) -> np.ndarray:
        num = images.shape[1]
        if num == 1 or not self.channels:
            return images
        if max(self.channels) >= num or min(self.channels) < 0:
            raise SystemExit(
                f"{self.uri}: --channels {list(self.channels)} of {num}: they are 0 to {num - 1}"
            )
        return images[:, list(self.channels)]
