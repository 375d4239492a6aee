"""What a training run asks of a cluster: on one node each, and of one that grows without a look at what it has."""

import logging

import pytest

from engine.errors import ResourceError
from engine.train.device import fits, uses_gpu
from engine.train.plan import TrainConfig

CPU_NODE = {"CPU": 8.0, "memory": 1e9}
GPU_NODE = {"CPU": 8.0, "GPU": 1.0}
HEAD = {"CPU": 0.0}


def config(**given) -> TrainConfig:
    return TrainConfig(**{"num_workers": 2, "cpus_per_worker": 2, "read_cpus": 1} | given)


def test_workers_must_fit_on_nodes_not_on_their_sum() -> None:
    with pytest.raises(
        ResourceError, match=r"4 nodes \(1 CPUs, 0 GPUs.*2 workers with 2 CPUs, each on one node"
    ):
        uses_gpu(config(), [{"CPU": 1.0}] * 4, may_grow=False)
    assert not uses_gpu(config(), [{"CPU": 4.0}, {"CPU": 1.0}], may_grow=False)


@pytest.mark.parametrize(
    ("cpus", "reads", "expected"),
    [
        ([4.0], 1.0, False),  # no room to read
        ([5.0], 1.0, True),
        ([2.0, 2.0], 0.5, False),
        ([2.0, 2.5], 0.5, True),
        ([2.0, 2.0, 0.5], 0.5, True),
        ([3.0, 3.0], 2.0, False),  # 2 CPUs are left, on no node together
        ([], 0.5, False),
        ([0.0], 0.5, False),
    ],
)
def test_reading_has_room_beside_the_workers(cpus: list[float], reads: float, expected: bool) -> None:
    nodes = [{"CPU": cpu} for cpu in cpus]
    assert fits(config(read_cpus=reads), nodes, use_gpu=False) is expected


def test_parts_of_a_cpu_add_up() -> None:
    assert fits(config(num_workers=3, cpus_per_worker=0.1, read_cpus=0.1), [{"CPU": 0.4}], use_gpu=False)


def test_each_worker_has_a_gpu_of_its_node() -> None:
    assert uses_gpu(config(device="auto"), [HEAD, GPU_NODE, GPU_NODE], may_grow=False)
    assert not uses_gpu(config(device="auto"), [GPU_NODE, CPU_NODE], may_grow=False)
    assert not uses_gpu(config(device="cpu"), [GPU_NODE, GPU_NODE], may_grow=False)
    with pytest.raises(ResourceError, match="2 workers with 2 CPUs and 1 GPU"):
        uses_gpu(config(device="cuda"), [GPU_NODE, CPU_NODE], may_grow=False)
    with pytest.raises(ResourceError, match=r"cluster\.may_grow"):
        uses_gpu(config(device="cuda"), [{"CPU": 64.0}, {"GPU": 8.0}], may_grow=False)


@pytest.mark.parametrize("nodes", [[HEAD], [HEAD, GPU_NODE, GPU_NODE]], ids=["idle", "busy"])
def test_on_a_cluster_that_grows_the_configuration_decides(nodes, caplog) -> None:
    assert uses_gpu(config(device="cuda"), nodes, may_grow=True)
    assert not uses_gpu(config(device="cpu"), nodes, may_grow=True)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not uses_gpu(config(device="auto"), nodes, may_grow=True)
    assert "'cuda' asks for GPUs" in caplog.text
