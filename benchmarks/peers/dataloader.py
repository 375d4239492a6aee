"""The plain way in PyTorch: an IterableDataset over files, a DataLoader with workers, one Parquet at the end."""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from benchmarks.peers.reading import coadds, prepared, read_coadd
from benchmarks.peers.scoring import load_predictor, scores_table
from engine.spectra.prepare import SpectrumPrep


class Spectra(IterableDataset):
    """One spectrum at a time; files are dealt to the workers."""

    def __init__(self, paths: list[str], prep: SpectrumPrep) -> None:
        self.paths, self.prep = paths, prep

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        mine = self.paths if worker is None else self.paths[worker.id :: worker.num_workers]
        for path in mine:
            columns = prepared(read_coadd(path), self.prep)
            for row in range(len(columns["targetid"])):
                yield {name: values[row] for name, values in columns.items()}


def _collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    batch: dict[str, Any] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return {k: torch.from_numpy(v) if v.dtype.kind in "fi" else v for k, v in batch.items()}


def main(release: str, checkpoint: str, out: str, plain: bool, num_workers: int) -> dict[str, float]:
    started = time.perf_counter()
    torch.set_num_threads(2)
    predict, prep = load_predictor(checkpoint, plain)
    loader = DataLoader(
        Spectra(coadds(release), prep), batch_size=512, num_workers=num_workers, collate_fn=_collate
    )
    ready = time.perf_counter()
    tables = []
    for batch in loader:
        arrays = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        tables.append(scores_table(arrays, predict(arrays)))
    table = pa.concat_tables(tables)
    pq.write_table(table, f"{out}/scores.parquet", compression="zstd")
    done = time.perf_counter()
    return {"startup_s": ready - started, "work_s": done - ready, "rows": table.num_rows}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:4], sys.argv[4] == "plain", int(sys.argv[5]))))
