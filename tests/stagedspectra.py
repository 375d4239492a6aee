"""Spectra in the form in which `ingest` stages them, made without a release and without Ray."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from engine.commit import CatalogConfig, FragmentSink, publish
from engine.partition import split_hash
from engine.schema import arrow_schema, list_array
from engine.spectra.columns import SPECTRUM_COLUMNS
from engine.spectra.prepare import SpectrumPrep
from engine.stage import UnitTable, columns_by_name, rejected_table
from engine.storage import Storage, StorageOptions
from engine.units import FileRef, Unit, with_ids
from jobs.ingest import SPLIT

PREP = SpectrumPrep(frame="rest", num_rest_pixels=200)
COLUMNS = (*columns_by_name(SPECTRUM_COLUMNS, "targetid", "spectype", "z"), *PREP.columns, SPLIT)


def stage_spectra(folder: Path, num_files: int, rows: int = 100) -> None:
    """Publish sloped continua with noise."""
    sink, rng = FragmentSink(str(folder), StorageOptions(), COLUMNS), np.random.default_rng(8)
    units = with_ids((Unit(f"u{i}", (FileRef(f"made/{i}", 1, "f"),)) for i in range(num_files)), {})
    for number, unit in enumerate(units):
        targetid = number * rows + np.arange(rows)
        slope, noise = rng.normal(0, 0.5, (rows, 1)), rng.normal(0, 0.1, (rows, PREP.num_pixels))
        flux = (1 + slope * np.linspace(-1, 1, PREP.num_pixels) + noise).astype(np.float32)
        ivar = np.full_like(flux, 100)
        names, spectra = [targetid, ["GALAXY"] * rows, np.full(rows, 0.1)], map(list_array, (flux, ivar))
        values = [*names, *spectra, split_hash(targetid)]
        table = pa.table([pa.array(column) for column in values], schema=arrow_schema(COLUMNS))
        sink.write(unit, UnitTable(table, rejected_table([]), rows))
    staged = CatalogConfig(name="staged", kind="flat", key=())
    facts = {"config": {"prepare": PREP.model_dump()}}
    publish(str(folder), Storage(), [unit.id for unit in units], COLUMNS, staged, facts)
