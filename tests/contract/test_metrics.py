"""Numbers of a run as Prometheus gets them from Ray, and the dashboard that draws them."""

import json
import re
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from engine.commit import FragmentSink
from engine.metrics import METRICS, Metric
from engine.pipeline import run_units
from engine.placement import PipelineConfig
from engine.runs import RunFolder
from engine.storage import Storage, StorageOptions
from engine.units import Work
from engine.worker import Branch, Watch
from tests.toy import COLUMNS, Same, ToySource, ToyStage, toy_units

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "trawl.json"
EXPORTED = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)

Samples = dict[str, list[tuple[dict[str, str], float]]]


def exported(metric: Metric) -> list[str]:
    """Names under which Ray exports a metric."""
    return [f"ray_{metric.name}{suffix}" for suffix in EXPORTED[metric.kind]]


def scrape() -> Samples:
    """All samples that this node exports, by name."""
    url = f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    found: Samples = defaultdict(list)
    for name, labels, value in SAMPLE.findall(text):
        found[name].append((dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)))
    return found


def scraped_when(condition: Callable[[Samples], bool]) -> Samples:
    """Samples once they fulfil a condition: nodes export them every ten seconds."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        found = scrape()
        if condition(found):
            return found
        time.sleep(0.5)
    raise AssertionError(f"not exported; there are {[name for name in found if 'trawl' in name]}")


def total(found: Samples, name: str, **labels: str) -> float:
    """Sum of the samples that have these labels."""
    return sum(value for given, value in found[name] if labels.items() <= given.items())


@pytest.mark.ray
def test_a_run_is_seen_by_prometheus_and_spills_nothing(ray_session: None, tmp_path: Path) -> None:
    """Split: tasks tell of what they read, actors of what they compute and write."""
    source, root = ToySource(num_units=12), str(tmp_path)
    branch = Branch((Same(), ToyStage()), FragmentSink(root, StorageOptions(), COLUMNS))
    watch = Watch((RunFolder(root, Storage(), "run-of-metrics"),), 0.5)
    work = [Work(unit, (unit.id,)) for unit in toy_units(source)]
    records: list[Any] = []
    run_units(
        work,
        source,
        [branch],
        PipelineConfig(workers=2, placement="split"),
        lambda _, record: records.append(record),
        watch,
    )
    ours = {"run": "run-of-metrics"}
    found = scraped_when(  # each process exports its own, at its own times
        lambda found: (
            total(found, "ray_trawl_units_total", **ours) == 12
            and total(found, "ray_trawl_stage_seconds_count", stage="same", **ours) == 12
            and total(found, "ray_trawl_units_in_hand", **ours) == 0
        )
    )
    assert total(found, "ray_trawl_rows_total", model="toy", **ours) == sum(r.rows for r in records)
    assert total(found, "ray_trawl_rejected_total", **ours) == sum(r.rejected_rows for r in records)
    assert total(found, "ray_trawl_rejected_total", reason="not_found", **ours) == 1
    assert total(found, "ray_trawl_bytes_written_total", **ours) == sum(r.num_bytes for r in records)
    assert total(found, "ray_trawl_bytes_fetched_total", **ours) == 12 * 7
    for stage in ("read", "same", "toy", "write"):
        assert total(found, "ray_trawl_stage_seconds_count", stage=stage, **ours) == 12
    assert {name for metric in METRICS for name in exported(metric)} <= set(found)
    assert found["ray_spill_manager_objects_bytes"], "Ray has another name for it: see the dashboard"
    assert total(found, "ray_spill_manager_objects_bytes", State="Spilled") == 0
    assert ray_names(DASHBOARD) <= set(found), "the dashboard asks for what is not exported"


def expressions(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def ray_names(path: Path) -> set[str]:
    """Names of metrics that a dashboard asks for."""
    text = " ".join(expressions(json.loads(path.read_text())))
    return set(re.findall(r"\bray_\w+", text))


def test_dashboard_asks_for_what_the_code_emits_and_for_all_of_it() -> None:
    asked = {name for name in ray_names(DASHBOARD) if name.startswith("ray_trawl")}
    emitted = {metric: exported(metric) for metric in METRICS}
    assert asked <= {name for names in emitted.values() for name in names}
    missing = [metric.name for metric, names in emitted.items() if not asked & set(names)]
    assert missing == []


def test_dashboard_is_one_that_grafana_imports() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["title"]
    assert dashboard["uid"]
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {"datasource", "run"}
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert target["expr"].count("(") == target["expr"].count(")")
            if "trawl" in target["expr"]:
                assert 'run=~"$run"' in target["expr"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)), "panels lie on each other"


def test_metrics_have_names_that_ray_takes() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"trawl_[a-z_]+", metric.name)
        assert not metric.name.endswith("_total"), "Ray adds it"
        assert "run" in metric.labels
