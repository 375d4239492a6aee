"""Ray Data written the obvious way: paths -> flat_map(read) -> map_batches(model actor) -> write_parquet."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray

from benchmarks.peers.reading import coadds, prepared, read_coadd
from benchmarks.peers.scoring import load_predictor, scores_table


class Scorer:
    """The model in an actor."""

    def __init__(self, checkpoint: str, plain: bool, ready_file: str) -> None:
        self.predict, _ = load_predictor(checkpoint, plain)
        Path(ready_file).write_text(str(time.time()))  # what came before is start-up

    def __call__(self, batch: dict[str, np.ndarray]) -> Any:
        return scores_table(batch, self.predict(batch))


def main(release: str, checkpoint: str, out: str, plain: bool) -> dict[str, float]:
    started = time.time()
    ray.init(include_dashboard=False, log_to_driver=False, object_store_memory=2 << 30)
    _, prep = load_predictor(checkpoint)

    def read(row: dict[str, Any]) -> list[dict[str, Any]]:
        columns = prepared(read_coadd(row["item"]), prep)
        return [{k: v[i] for k, v in columns.items()} for i in range(len(columns["targetid"]))]

    spectra = ray.data.from_items(coadds(release)).flat_map(read)
    scored = spectra.map_batches(
        Scorer,
        fn_constructor_args=(checkpoint, plain, f"{out}.ready"),
        batch_size=512,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1,
    )
    scored.write_parquet(out)
    done = time.time()
    ready = float(Path(f"{out}.ready").read_text())
    rows = pq.read_table(out, columns=["targetid"]).num_rows
    ray.shutdown()
    return {"startup_s": ready - started, "work_s": done - ready, "rows": rows}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:4], sys.argv[4] == "plain")))
