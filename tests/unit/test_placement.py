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
