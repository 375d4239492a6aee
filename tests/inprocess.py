"""Units computed and models trained in the test's own process: for tests of what jobs make of the results.

A worker of Ray takes seconds to start. What Ray adds is shown where it matters: `tests/contract/test_pipeline.py`,
`tests/integration/test_train.py`, and in the jobs that `test_reprocess.py` and others run as they are.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from ray import cloudpickle
from ray.train import ScalingConfig

from engine import pipeline
from engine.attempts import Unlimited
from engine.placement import WorkerPlan
from engine.train import loop
from engine.units import Work
from engine.worker import Branch, Reader, UnitWorker, name_unit


@contextmanager
def in_process() -> Iterator[None]:
    """Inside the `with` jobs start no worker; Ray itself must be there, for small tasks."""
    num_threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_rows", computed)
        patch.setattr(pipeline.RayAttempts, "of", lambda _: Unlimited())
        patch.setattr(loop, "ScalingConfig", local_mode)
        yield
    torch.set_num_threads(num_threads)  # a worker sets its own


def computed(
    work: Sequence[Work], source: Reader, plan: WorkerPlan, branches: Sequence[Branch], *_: Any
) -> Iterator[dict[str, Any]]:
    """Do what one worker does, which gets its stages pickled; nobody watches it or counts its attempts."""
    arguments = source, (*plan.read_stages, *plan.shared_stages), branches
    worker = UnitWorker(*cloudpickle.loads(cloudpickle.dumps(arguments)))
    for one in work:
        yield from worker(name_unit(one)).to_pylist()


def local_mode(num_workers: int, use_gpu: bool, resources_per_worker: dict[str, float]) -> ScalingConfig:
    """Have Ray Train run the loop of its worker in this process."""
    return ScalingConfig(num_workers=0, use_gpu=use_gpu)
