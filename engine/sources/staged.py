"""Our own Parquet as a source: spectra that `ingest` has prepared, a file a unit."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from engine.column import Column
from engine.errors import SchemaError, StorageError
from engine.schema import conform, empty_table
from engine.stage import Rejection, UnitTable, rejected_table
from engine.storage import NotFoundError, Storage, StorageOptions
from engine.units import FileRef, Unit


@dataclass(frozen=True)
class StagedSource:
    """Staged Parquet files of one declared schema.

    What `ingest` rejected is on record there; `rows_in` counts the rows of the file.

    Parameters
    ----------
    files
        As the ledger or manifest of the ingest lists them.
    columns
        What each file must hold; others are not read.
    options
        How to reach storage.
    """

    files: tuple[FileRef, ...]
    columns: tuple[Column, ...]
    options: StorageOptions = field(default_factory=StorageOptions)

    def plan(self) -> Iterator[Unit]:
        """Yield a unit for each file, in order of their names."""
        for file in sorted(self.files, key=lambda file: file.uri):
            yield Unit(file.uri.rsplit("/", 1)[-1].removesuffix(".parquet"), (file,))

    def read(self, unit: Unit) -> UnitTable:
        """Read one file; a file that is gone, damaged or of another schema becomes a rejection."""
        (file,) = unit.files
        try:
            rows = self._read(file.uri)
        except NotFoundError:
            return self._rejected(file.uri, "not_found", "staged file does not exist")
        except SchemaError as error:
            return self._rejected(file.uri, "unsupported_layout", str(error))
        except (StorageError, OSError, pa.ArrowInvalid) as error:
            return self._rejected(file.uri, "unreadable_file", str(error))
        stats = {"bytes_fetched": float(file.size), "bytes_used": float(file.size)}
        return UnitTable(rows, rejected_table([]), rows.num_rows, stats)

    def _read(self, uri: str) -> pa.Table:
        with Storage(self.options).open_input(uri) as opened, pq.ParquetFile(opened) as parquet:
            known = set(parquet.schema_arrow.names)
            table = parquet.read([column.name for column in self.columns if column.name in known])
        return conform(table, self.columns, uri).combine_chunks()

    def _rejected(self, uri: str, reason: str, detail: str) -> UnitTable:
        rejected = rejected_table([Rejection(uri, reason, detail)])
        return UnitTable(empty_table(self.columns), rejected, 0)
