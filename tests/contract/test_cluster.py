import os

import pytest
import ray

from engine import cluster
from engine.cluster import ClusterConfig
from engine.errors import ResourceError
from engine.stage import Resources
from tests.toy import ToyStage

pytestmark = pytest.mark.ray

HUNGRY = ToyStage(name="hungry", resources=Resources(num_cpus=2, num_gpus=1, memory_gib=0.5))


def test_a_ray_that_runs_already_is_used_and_left_alone(ray_session):
    with cluster.connect(ClusterConfig()):
        assert ray.is_initialized()
    assert ray.is_initialized()


def test_stage_that_fits_nowhere_is_told_before_work_starts(ray_session):
    with pytest.raises(ResourceError) as caught:
        cluster.preflight([ToyStage(), HUNGRY], ClusterConfig())
    text = str(caught.value)
    assert text.startswith("stage 'hungry': no node of the cluster can run the stage; got 6 CPU, 0 GPU")
    assert "expected 2 CPU, 1 GPU, 0.5 GiB" in text
    assert "cluster.may_grow" in text


def test_stage_that_fits_passes_and_growing_clusters_are_believed(ray_session):
    cluster.preflight([ToyStage()], ClusterConfig())
    cluster.preflight([HUNGRY], ClusterConfig(may_grow=True))


def test_packages_that_workers_lack_are_named(ray_session, monkeypatch):
    monkeypatch.setattr(cluster, "PACKAGES", ("engine", "no_such_package"))
    with pytest.raises(ResourceError, match="workers cannot import our packages; got no no_such_package"):
        cluster.preflight([], ClusterConfig())


@pytest.mark.parametrize(
    ("configured", "environment", "expected"),
    [
        ("auto", "", "local"),
        ("auto", "10.0.0.1:6379", "10.0.0.1:6379"),
        ("local", "10.0.0.1:6379", "local"),
        ("ray://host:10001", "10.0.0.1:6379", "ray://host:10001"),
    ],
)
def test_address_is_that_of_the_job_unless_configured(monkeypatch, configured, environment, expected):
    asked: list[str] = []
    monkeypatch.setenv("RAY_ADDRESS", environment)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: asked.append("stopped"))
    monkeypatch.setattr(cluster, "_start_local", lambda *_: asked.append("local"))
    monkeypatch.setattr(cluster, "_attach", asked.append)
    with cluster.connect(ClusterConfig(address=configured)):
        assert asked == [expected]
    assert asked == [expected, "stopped"]


def test_unreachable_cluster_is_told(monkeypatch):
    def refuse(**options):
        raise ConnectionError("refused")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    connection = cluster.connect(ClusterConfig(address="10.0.0.1:6379"))
    with (
        pytest.raises(ResourceError, match=r"10\.0\.0\.1:6379: no Ray cluster can be reached; got refused"),
        connection,
    ):
        pass


def test_ray_that_starts_too_slowly_gets_a_second_chance(monkeypatch):
    answers = [Exception("The current node timed out during startup."), None, None, ValueError("other")]

    def start(**options):
        assert os.environ["RAY_prestart_worker_first_driver"] == "0", (  # noqa: SIM112 - Ray's name
            "a worker that dies would keep the driver waiting"
        )
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    cluster._start_local(ClusterConfig(), has_dashboard=False)
    assert len(answers) == 2
    cluster._start_local(ClusterConfig(), has_dashboard=False)
    with pytest.raises(ValueError, match="other"):
        cluster._start_local(ClusterConfig(), has_dashboard=False)
