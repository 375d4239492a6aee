"""A reader that polls a catalogue all the while, and tells if it ever saw a version that was not whole."""

import threading
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.faults.site import Site
from engine.commit.manifest import read_manifest, version_numbers
from engine.errors import EngineError

EVERY_S = 0.5


class Watcher:
    """Polls in a thread inside the `with`.

    Attributes
    ----------
    looks
        How often it has looked.
    partial
        What was not whole when it looked.
    """

    def __init__(self, site: Site, name: str) -> None:
        self.looks, self.partial = 0, list[str]()
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
        storage, root = self._site.storage, self._site.uri(self._name)
        found = []
        for number in version_numbers(root, storage):
            try:
                manifest = read_manifest(root, storage, number)
                rows = 0
                for path in manifest.paths("data"):
                    data = storage.read(f"{root}/{path}")
                    rows += pq.read_metadata(pa.BufferReader(data)).num_rows
                found += (
                    [f"version {number}: {rows} of {manifest.rows} rows"] if rows != manifest.rows else []
                )
            except (EngineError, OSError, pa.ArrowInvalid) as error:
                found.append(f"version {number}: {error}")
        return found
