from itertools import product

import pytest

from engine.errors import ResourceError
from engine.placement import CPU_STEP, GIB, MAX_WORKERS, PipelineConfig, plan_workers
from engine.stage import Resources
from tests.toy import ToyStage

GPU = Resources(num_cpus=1, num_gpus=1)


@pytest.mark.parametrize("cpus", [1, 2, 4, 16, 200])
@pytest.mark.parametrize("placement", ["fused", "split"])
@pytest.mark.parametrize("asked", [0.5, 1, 4])
@pytest.mark.parametrize("workers", [None, 1, 3])
def test_a_reader_always_finds_room_beside_the_workers(cpus, placement, asked, workers):
    config = PipelineConfig(placement=placement, workers=workers)
    stages = [ToyStage(resources=Resources(num_cpus=asked))]
    plan = plan_workers(300, [stages], config, [{"CPU": cpus}])
    assert plan.workers >= 1
    assert 0 < plan.worker.num_cpus <= asked
    assert plan.workers * plan.worker.num_cpus + plan.reader.num_cpus <= cpus + 1e-9
    assert (plan.reader == plan.worker) == (placement == "fused")


def test_placement_follows_the_gpu():
    units, config = 9, PipelineConfig()
    cpu, gpu = ToyStage(), ToyStage(resources=GPU)
    on_cpu = plan_workers(units, [[cpu, cpu]], config, [{"CPU": 2}])
    assert (on_cpu.placement, on_cpu.workers, on_cpu.read_stages) == ("fused", 2, ())
    on_gpu = plan_workers(units, [[cpu, gpu]], config, [{"CPU": 32, "GPU": 4}])
    assert (on_gpu.placement, on_gpu.workers, on_gpu.read_stages) == ("split", 4, (cpu,))
    assert on_gpu.worker.num_gpus == 1
    assert plan_workers(1, [[cpu]], config, [{"CPU": 64}]).workers == 1
    forced = plan_workers(units, [[cpu, cpu]], PipelineConfig(placement="split"), [{"CPU": 2}])
    assert (forced.workers, len(forced.read_stages), len(forced.shared_stages)) == (1, 1, 1)


def test_what_branches_begin_with_alike_runs_once():
    first, same, other = ToyStage(), ToyStage(), ToyStage(resources=Resources(num_cpus=0.5))
    fused = plan_workers(9, [[first, other], [same, first], [first]], PipelineConfig(), [{"CPU": 2}])
    assert (fused.read_stages, fused.shared_stages) == ((), (first,))
    assert fused.branch_stages == ((other,), (first,), ())
    gpu = ToyStage(resources=GPU)
    split = plan_workers(9, [[first, gpu], [same, other, gpu]], PipelineConfig(), [{"CPU": 8, "GPU": 1}])
    assert (split.read_stages, split.shared_stages) == ((first,), ())
    assert split.branch_stages == ((gpu,), (other, gpu))


def test_object_storage_is_read_ahead_and_a_disk_is_not():
    config, cluster = PipelineConfig(), [{"CPU": 2}]
    assert plan_workers(9, [[ToyStage()]], config, cluster).threads == 1
    assert plan_workers(9, [[ToyStage()]], config, cluster, is_remote=True).threads == 2
    assert plan_workers(9, [[ToyStage()]], PipelineConfig(units_per_worker=3), cluster).threads == 3


def with_memory(gib: float, **more: float) -> list[ToyStage]:
    return [ToyStage(resources=Resources(num_cpus=1, memory_gib=gib, **more))]


def test_fewer_workers_where_memory_is_scarce_and_why():
    nodes = [{"CPU": 8, "memory": 7 * GIB}, {"CPU": 8, "memory": 3 * GIB}]
    plan = plan_workers(99, [with_memory(2)], PipelineConfig(), nodes)
    assert plan.workers == 4, "three on the one, one on the other: not five"
    assert plan.reasons == (
        "4 workers instead of 16: each asks for 0 GPU and 2 GiB and the nodes have room for 4",
    )
    assert plan.worker.memory_gib == 2
    assert plan_workers(99, [with_memory(0.1)], PipelineConfig(), nodes).reasons == ()


def test_memory_of_readers_is_kept_free():
    nodes, config = [{"CPU": 8, "memory": 8 * GIB}], PipelineConfig(placement="split", read_memory_gib=3)
    assert plan_workers(99, [with_memory(2)], config, nodes).workers == 2


def may_starve_a_reader(plan, nodes) -> bool:
    """Whether some way of putting the workers on the nodes leaves a reader no room on any."""
    amounts = lambda asked: (asked.num_cpus, asked.num_gpus, asked.memory_gib * GIB)  # noqa: E731
    there = [(node.get("CPU", 0), node.get("GPU", 0), node.get("memory", 0)) for node in nodes]

    def is_full(node, workers: int, extra=(0, 0, 0)) -> bool:
        wanted = [workers * each + more for each, more in zip(amounts(plan.worker), extra, strict=True)]
        return any(want > have + 1e-9 for want, have in zip(wanted, node, strict=True))

    ways = [
        way
        for way in product(range(plan.workers + 1), repeat=len(nodes))
        if sum(way) == plan.workers and not any(map(is_full, there, way))
    ]
    assert ways, "the workers do not fit at all"
    reader = amounts(plan.reader)
    return any(all(is_full(node, n, reader) for node, n in zip(there, way, strict=True)) for way in ways)


@pytest.mark.parametrize("read_gib", [0, 3, 5, 9])
@pytest.mark.parametrize("read_cpus", [0.5, 1, 6])
@pytest.mark.parametrize("worker_gib", [0, 2, 6])
@pytest.mark.parametrize("others", [(4, 10), (2, 6), (0, 0)], ids=["equal", "smaller", "head"])
def test_a_reader_finds_room_on_a_node_wherever_the_workers_are(read_gib, read_cpus, worker_gib, others):
    nodes = [{"CPU": 4, "memory": 10 * GIB}, {"CPU": others[0], "memory": others[1] * GIB}]
    config = PipelineConfig(
        placement="split", read_memory_gib=read_gib, read_cpus=read_cpus, worker_memory_gib=worker_gib
    )
    if worker_gib + read_gib > 10 and read_gib > others[1]:
        with pytest.raises(ResourceError, match="room for a reading task beside a worker"):
            plan_workers(99, [[ToyStage()]], config, nodes)
        return
    plan = plan_workers(99, [[ToyStage()]], config, nodes)
    assert not may_starve_a_reader(plan, nodes)
    assert plan.reader.num_cpus == min(read_cpus, 2), "half a node"
    assert any("reading tasks ask for 2 CPU instead of 6" in reason for reason in plan.reasons) == (
        read_cpus == 6
    )


def test_room_beside_a_reader_is_that_of_nodes_not_of_their_sum():
    nodes = [{"CPU": 8, "memory": 10 * GIB}] * 2
    config = PipelineConfig(placement="split", read_memory_gib=5, worker_memory_gib=6)
    plan = plan_workers(99, [[ToyStage()]], config, nodes)
    assert plan.workers == 1
    assert plan.reasons == (
        "1 workers instead of 8: each asks for 0 GPU and 6 GiB and the nodes have room for 1 beside a reading task "
        "of 0 GPU and 5 GiB",
    )
    too_large = config.model_copy(update={"read_memory_gib": 11.0, "worker_memory_gib": 0.0})
    with pytest.raises(ResourceError, match="11 GiB for a reading task"):
        plan_workers(99, [[ToyStage()]], too_large, nodes)
    assert plan_workers(99, [[ToyStage()]], too_large, nodes, may_grow=True).reader.memory_gib == 11


def test_a_node_that_holds_no_worker_is_left_to_readers():
    nodes = [{"CPU": 8, "GPU": 2, "memory": 10 * GIB}, {"CPU": 4, "memory": 10 * GIB}]
    config = PipelineConfig(read_memory_gib=9)
    plan = plan_workers(99, [with_memory(5, num_gpus=1)], config, nodes)
    assert (plan.workers, plan.reasons) == (2, ())


@pytest.mark.parametrize(("asked", "fit"), [(0.6, 2), (0.5, 4), (0.3, 6), (0.1, 20), (1, 2), (2, 1)])
def test_a_worker_has_its_share_of_a_gpu_on_one_card(asked, fit):
    nodes, stage = [{"CPU": 32, "GPU": 2}], ToyStage(resources=Resources(1, asked))
    plan = plan_workers(99, [[stage]], PipelineConfig(), nodes)
    assert (plan.workers, plan.reasons) == (fit, ())
    more = plan_workers(99, [[stage]], PipelineConfig(workers=fit + 1), nodes)
    assert more.workers == fit
    assert f"{fit} workers instead of {fit + 1}" in more.reasons[0]


def test_fractions_of_a_gpu_are_placed_node_by_node():
    stages = with_memory(1, num_gpus=0.3)
    nodes = [{"CPU": 8, "GPU": 1, "memory": 64 * GIB}, {"CPU": 8, "GPU": 2, "memory": 2 * GIB}]
    plan = plan_workers(99, [stages], PipelineConfig(), nodes)
    assert plan.workers == 5, "three on one card; two, for memory, on the node with two"


def test_worker_that_fits_nowhere_is_refused_unless_the_cluster_grows():
    nodes = [{"CPU": 8, "memory": 1 * GIB}]
    with pytest.raises(
        ResourceError, match=r"has room for a worker; got 8 CPU, 0 GPU, 1 GiB; expected .*2 GiB"
    ):
        plan_workers(9, [with_memory(2)], PipelineConfig(), nodes)
    plan = plan_workers(9, [with_memory(2)], PipelineConfig(), nodes, may_grow=True)
    assert (plan.workers, plan.max_workers) == (1, 9)


@pytest.mark.parametrize("placement", ["fused", "split"])
def test_workers_of_a_cluster_that_grows_ask_for_all_that_they_use(placement):
    config = PipelineConfig(placement=placement)
    plan = plan_workers(5000, [[ToyStage(), ToyStage()]], config, [], may_grow=True)
    assert (plan.workers, plan.max_workers) == (1, MAX_WORKERS)
    assert plan.worker.num_cpus >= 1 - 2 * CPU_STEP
    fixed = plan_workers(5000, [[ToyStage()]], PipelineConfig(workers=3), [{"CPU": 4}], may_grow=True)
    assert (fixed.workers, fixed.max_workers) == (3, 3)
    still = plan_workers(5000, [[ToyStage()]], config, [{"CPU": 4}])
    assert still.max_workers == still.workers
