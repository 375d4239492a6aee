"""A node comes while units are computed, then the one that was there first is killed; `python -m tests.elastic FOLDER`.

In a process of its own, for it makes clusters. Writes to `counts.json` (Ray prints as it likes) the nodes that computed
units before and after the second came, the records, and how many of them are of different units.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
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
JOINING, KILLED = "joining", "killed"
"""Marks that tell workers how far it is."""
ONE_CPU = Resources(num_cpus=1)
DEATH_IS_NOTICED = {"RAY_health_check_period_ms": "500"}
"""Five times this after it, by default 15 s."""


@dataclass(frozen=True)
class Slowly:
    """Notes on which node it works; from the time when a second node is to come, until the first is killed, it waits.

    So each worker has a unit in hand when that happens, however long it takes a node to start.
    """

    notes: str
    name: str = "slowly"
    resources: Resources = ONE_CPU
    requires: tuple[Column, ...] = ()
    provides: tuple[Column, ...] = ()

    def open(self) -> UnitFunction:
        node = ray.get_runtime_context().get_node_id()

        def note(table: UnitTable) -> UnitTable:
            Path(self.notes, f"{node}-{os.getpid()}").touch()
            if Path(self.notes, JOINING).exists():
                wait_for(Path(self.notes, KILLED).exists)
            return table

        return note


def nodes_that_worked(folder: Path) -> list[str]:
    return sorted({path.name.partition("-")[0] for path in folder.glob("*-*")})


def wait_for(condition: Callable[[], bool], seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


def main(folder: Path) -> None:
    notes = folder / "notes"
    notes.mkdir()
    os.environ.update(DEATH_IS_NOTICED)
    memory = {"object_store_memory": 100 << 20}
    head = {"num_cpus": 0, "include_dashboard": False, **memory}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    first = cluster.add_node(num_cpus=2, **memory)
    ray.init(address=cluster.address, log_to_driver=False)
    source = ToySource(num_units=NUM_UNITS, rows=5)
    work = [Work(unit, (unit.id,)) for unit in toy_units(source)]
    stages = (ToyStage(), Slowly(str(notes)))
    branch = Branch(stages, FragmentSink(str(folder / "catalogue"), StorageOptions(), COLUMNS))
    records: list[str] = []
    config = PipelineConfig()
    # Nodes are added and removed in the main thread, for that sets signal handlers: so the run is in another.
    run = threading.Thread(
        target=run_units,
        args=(work, source, [branch], config, lambda _, record: records.append(record.unit_key)),
        kwargs={"may_grow": True},
    )
    run.start()
    wait_for(lambda: len(records) >= 2)
    before = nodes_that_worked(notes)
    (notes / JOINING).touch()
    cluster.add_node(num_cpus=2, **memory)
    wait_for(lambda: len(nodes_that_worked(notes)) == 2)
    cluster.remove_node(first, allow_graceful=False)
    (notes / KILLED).touch()
    run.join()
    counts = [len(before), len(nodes_that_worked(notes)), len(records), len(set(records))]
    (folder / "counts.json").write_text(json.dumps(counts))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
