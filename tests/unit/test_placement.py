import pytest

from engine.placement import PipelineConfig, plan_workers
from engine.stage import Resources
from tests.toy import ToySource, ToyStage, toy_units

GPU = Resources(num_cpus=1, num_gpus=1)


@pytest.mark.parametrize("cpus", [1, 2, 4, 16, 200])
@pytest.mark.parametrize("placement", ["fused", "split"])
@pytest.mark.parametrize("asked", [0.5, 1, 4])
@pytest.mark.parametrize("workers", [None, 1, 3])
def test_a_reader_always_finds_room_beside_the_workers(cpus, placement, asked, workers):
    config = PipelineConfig(placement=placement, workers=workers)
    stages = [ToyStage(resources=Resources(num_cpus=asked))]
    plan = plan_workers(toy_units(ToySource(num_units=300)), stages, config, {"CPU": cpus})
    assert plan.workers >= 1
    assert 0 < plan.worker.num_cpus <= asked
    assert plan.workers * plan.worker.num_cpus + plan.reader.num_cpus <= cpus + 1e-9
    assert (plan.reader == plan.worker) == (placement == "fused")


def test_placement_follows_the_gpu():
    units, config = toy_units(ToySource(num_units=9)), PipelineConfig()
    cpu, gpu = ToyStage(), ToyStage(resources=GPU)
    on_cpu = plan_workers(units, [cpu, cpu], config, {"CPU": 2})
    assert (on_cpu.placement, on_cpu.workers, on_cpu.read_stages) == ("fused", 2, ())
    on_gpu = plan_workers(units, [cpu, gpu], config, {"CPU": 32, "GPU": 4})
    assert (on_gpu.placement, on_gpu.workers, on_gpu.read_stages) == ("split", 4, (cpu,))
    assert on_gpu.worker.num_gpus == 1
    assert plan_workers(units[:1], [cpu], config, {"CPU": 64}).workers == 1
    forced = plan_workers(units, [cpu, cpu], PipelineConfig(placement="split"), {"CPU": 2})
    assert (forced.workers, len(forced.read_stages), len(forced.worker_stages)) == (1, 1, 1)
