"""A reader that polls a catalogue all the while, and tells if it ever saw a version that was not whole."""

import threading
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.faults.site import Site
from engine.commit.manifest import read_manifest, version_numbers
from engine.errors import EngineError, StorageError
from engine.locations import NotFoundError, ShortReadError

EVERY_S = 0.5


class Watcher:
    """Polls in a thread inside the `with`.

    Attributes
    ----------
    looks
        How often it has looked.
    blind
        How often it could not: the server did not answer.
    partial
        What was not whole when it looked.
    """

    def __init__(self, site: Site, name: str) -> None:
        self.looks, self.blind, self.partial = 0, 0, list[str]()
        self._site, self._name = site, name
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self.partial += self._look()
            self.looks += 1

    def _look(self) -> list[str]:
        """Read all versions that there are, whole; nothing that a version names may be absent or other than it says."""
        try:
            numbers = version_numbers(self._site.uri(self._name), self._site.storage)
            return [text for number in numbers for text in self._problems(number)]
        except StorageError:
            self.blind += 1
            return []

    def _problems(self, number: int) -> list[str]:
        """Say what is not whole in a version; an error of the storage that says nothing of the version is raised."""
        storage, root, rows = self._site.storage, self._site.uri(self._name), 0
        try:
            manifest = read_manifest(root, storage, number)
            for path in manifest.paths("data"):
                rows += pq.read_metadata(pa.BufferReader(storage.read(f"{root}/{path}"))).num_rows
        except StorageError as error:
            if not isinstance(error, NotFoundError | ShortReadError):
                raise
            return [f"version {number}: {error}"]
        except (EngineError, pa.ArrowInvalid) as error:
            return [f"version {number}: {error}"]
        return [] if rows == manifest.rows else [f"version {number}: {rows} of {manifest.rows} rows"]
