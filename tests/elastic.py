"""A cluster of one node to which another comes while units are computed; `python -m tests.elastic FOLDER`.

In a process of its own, for it makes clusters. Prints the nodes that computed units, before and after.
"""

import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from engine.column import Column
from engine.commit import FragmentSink
from engine.pipeline import run_units
from engine.placement import PipelineConfig
from engine.stage import Resources, UnitFunction, UnitTable
from engine.storage import StorageOptions
from engine.units import Work
from engine.worker import Branch
from tests.toy import COLUMNS, ToySource, ToyStage, toy_units

NUM_UNITS = 100
ONE_CPU = Resources(num_cpus=1)


@dataclass(frozen=True)
class Slowly:
    """Notes on which node it works, and takes its time until a second one does."""

    notes: str
    name: str = "slowly"
    resources: Resources = ONE_CPU
    requires: tuple[Column, ...] = ()
    provides: tuple[Column, ...] = ()

    def open(self) -> UnitFunction:
        node = ray.get_runtime_context().get_node_id()

        def note(table: UnitTable) -> UnitTable:
            Path(self.notes, f"{node}-{os.getpid()}").touch()
            if len(nodes_that_worked(Path(self.notes))) < 2:
                time.sleep(0.8)
            return table

        return note


def nodes_that_worked(folder: Path) -> list[str]:
    return sorted({path.name.partition("-")[0] for path in folder.iterdir()})


def main(folder: Path) -> None:
    notes = folder / "notes"
    notes.mkdir()
    resources = {"num_cpus": 2, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**resources, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False)
    source = ToySource(num_units=NUM_UNITS, rows=5)
    work = [Work(unit, (unit.id,)) for unit in toy_units(source)]
    stages = (ToyStage(), Slowly(str(notes)))
    branch = Branch(stages, FragmentSink(str(folder / "catalogue"), StorageOptions(), COLUMNS))
    records: list[str] = []
    config = PipelineConfig()
    # `add_node` sets signal handlers: it must be in the main thread, so the run is not.
    run = threading.Thread(
        target=run_units,
        args=(work, source, [branch], config, lambda _, record: records.append(record.unit_key)),
        kwargs={"may_grow": True},
    )
    run.start()
    while len(records) < 2:
        time.sleep(0.05)
    before = nodes_that_worked(notes)
    cluster.add_node(**resources)
    run.join()
    print(len(before), len(nodes_that_worked(notes)), len(records), len(set(records)))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
