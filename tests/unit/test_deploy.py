"""Files for clusters: accepted by the schemas of Ray and of KubeRay, without secrets, in step with the project."""

import copy
import re
import shlex
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from engine.config import parse_overrides
from jobs.__main__ import parser
from jobs.catalogue import CatalogueOptions
from jobs.config import JobConfig

ROOT = Path(__file__).parents[2]
MANIFESTS = sorted((ROOT / "deploy" / "kuberay").glob("*.yaml"))
SECRETS = re.compile(
    r"AKIA[0-9A-Z]{16}|secret_access_key|BEGIN [A-Z ]*PRIVATE KEY|password\s*:", re.IGNORECASE
)


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "deploy" / "kuberay" / f"{name}.yaml").read_text()))


def launcher() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def cluster_specs() -> dict[str, dict[str, Any]]:
    """What each manifest says of its cluster."""
    return {
        "raycluster": documents("raycluster")[0]["spec"],
        "rayjob": documents("rayjob")[0]["spec"]["rayClusterSpec"],
        "raycronjob": documents("raycronjob")[0]["spec"]["jobTemplate"]["rayClusterSpec"],
    }


def strict(schema: Any) -> Any:
    """Refuse unknown keys, which Kubernetes drops in silence, and read its own marks as JSON Schema does."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        schema = {"type": ["integer", "string"]}
    return schema


METADATA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]{0,45}[a-z0-9])?$"},
        "generateName": {"type": "string", "pattern": r"^[a-z0-9][-a-z0-9]{0,40}-$"},
    },
    "additionalProperties": False,
    "oneOf": [{"required": ["name"]}, {"required": ["generateName"]}],
}
"""What we use of it; KubeRay makes names of services and pods of these, which end at 63 letters."""


@cache
def crd(shared_data: Path, name: str) -> dict[str, Any]:
    """Schema of a kind of KubeRay's, with what Kubernetes itself checks: the kind, its group, the metadata."""
    path = shared_data / "kuberay" / f"crd_{name}.yaml"
    if not path.exists():
        pytest.skip("KubeRay's CRDs are not beside the project")
    spec = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]
    (version,) = (v for v in spec["versions"] if v["name"] == "v1")
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"] |= {
        "apiVersion": {"const": f"{spec['group']}/v1"},
        "kind": {"const": spec["names"]["kind"]},
        "metadata": METADATA,
    }
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return schema


def test_launcher_accepts_the_cluster_and_refuses_an_unknown_key() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(launcher()))
    node_types = launcher()["available_node_types"]
    node_types["reader"]["max_worker"] = 3
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(prepare_config(launcher() | {"available_node_types": node_types}))


def test_launcher_bounds_the_bill_and_keeps_only_the_head_for_good() -> None:
    config = launcher()
    workers = {k: v for k, v in config["available_node_types"].items() if k != config["head_node_type"]}
    assert sum(node["max_workers"] for node in workers.values()) == config["max_workers"]
    assert all(node["min_workers"] == 0 for node in workers.values())
    assert all(
        node["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot" for node in workers.values()
    )
    for node in config["available_node_types"].values():
        assert "IamInstanceProfile" in node["node_config"]
        assert all(disk["Ebs"]["DeleteOnTermination"] for disk in node["node_config"]["BlockDeviceMappings"])
    assert not any("dashboard-host=0.0.0.0" in line for line in config["head_start_ray_commands"])


@pytest.mark.parametrize(("name", "schema"), [("rayjob", "job"), ("raycronjob", "cron")])
def test_manifest_fits_the_schema_of_kuberay(shared_data: Path, name: str, schema: str) -> None:
    (manifest,) = documents(name)
    validator = jsonschema.Draft202012Validator(crd(shared_data, schema))
    validator.validate(manifest)
    for part in ({"apiVersion": "ray.io/v1alpha1"}, {"kind": "RayService"}, {"metadata": {}}):
        assert not validator.is_valid(manifest | part)
    wrong = copy.deepcopy(manifest)
    job = wrong["spec"].get("jobTemplate", wrong["spec"])
    job["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        validator.validate(wrong)


KINDS = {
    "raycluster": ["ray.io/v1 RayCluster"],
    "rayjob": ["ray.io/v1 RayJob"],
    "raycronjob": ["ray.io/v1 RayCronJob"],
    "cronjob": [
        "batch/v1 CronJob", "v1 ServiceAccount", "rbac.authorization.k8s.io/v1 Role",
        "rbac.authorization.k8s.io/v1 RoleBinding",
    ],
}  # fmt: skip


def test_each_manifest_says_what_it_is() -> None:
    assert {path.stem for path in MANIFESTS} == set(KINDS)
    for name, kinds in KINDS.items():
        assert [f"{document['apiVersion']} {document['kind']}" for document in documents(name)] == kinds
        for document in documents(name):
            jsonschema.Draft202012Validator(METADATA).validate(document["metadata"])


def test_cluster_that_stays_fits_the_schema_of_a_job_s_cluster(shared_data: Path) -> None:
    spec = crd(shared_data, "job")["properties"]["spec"]["properties"]["rayClusterSpec"]
    jsonschema.Draft202012Validator(spec).validate(cluster_specs()["raycluster"])


def test_all_manifests_run_the_same_cluster_and_the_scheduled_ones_the_same_job() -> None:
    specs = list(cluster_specs().values())
    assert specs[1:] == specs[:-1]
    assert documents("raycronjob")[0]["spec"]["jobTemplate"] == documents("rayjob")[0]["spec"]


def test_plain_schedule_creates_the_job_and_no_two_at_once() -> None:
    schedule, *rest = documents("cronjob")
    assert schedule["spec"]["concurrencyPolicy"] == "Forbid"
    assert re.fullmatch(r"(\S+ ){4}\S+", schedule["spec"]["schedule"])
    pod = schedule["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (mount,) = container["volumeMounts"]
    assert container["command"][-1] == f"{mount['mountPath']}/rayjob.yaml"
    (volume,) = pod["volumes"]
    assert mount["name"] == volume["name"]
    told = (ROOT / "deploy" / "kuberay" / "cronjob.yaml").read_text()
    assert f"create configmap {volume['configMap']['name']} --from-file=deploy/kuberay/rayjob.yaml" in told
    account, role, binding = rest
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    assert binding["roleRef"] == {
        "apiGroup": "rbac.authorization.k8s.io", "kind": role["kind"], "name": role["metadata"]["name"]
    }  # fmt: skip
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account["metadata"]["name"]}]
    assert role["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}]


def test_pod_of_the_plain_schedule_fits_the_schema_of_pods(shared_data: Path) -> None:
    """Kubernetes' own is not at hand: KubeRay's schema holds that of a pod's template."""
    head = crd(shared_data, "job")["properties"]["spec"]["properties"]["rayClusterSpec"]["properties"]
    validator = jsonschema.Draft202012Validator(head["headGroupSpec"]["properties"]["template"])
    job = documents("cronjob")[0]["spec"]["jobTemplate"]["spec"]
    assert set(job) == {"backoffLimit", "template"}
    validator.validate(job["template"])
    assert job["template"]["spec"]["restartPolicy"] in ("Never", "OnFailure"), "a Job takes no other"
    job["template"]["spec"]["serviceAccount_name"] = "x"
    assert not validator.is_valid(job["template"])


def test_line_of_the_job_is_one_that_we_understand() -> None:
    words = shlex.split(documents("rayjob")[0]["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "jobs"]
    arguments = parser().parse_args(words[3:])
    JobConfig.model_validate(parse_overrides(arguments.overrides))


def test_run_ends_before_prune_may_touch_what_it_wrote() -> None:
    hours = documents("rayjob")[0]["spec"]["activeDeadlineSeconds"] / 3600
    assert hours < CatalogueOptions().min_age_hours


def test_nodes_log_in_where_the_image_is_without_a_secret() -> None:
    registry = launcher()["docker"]["image"].partition("/")[0]
    region = launcher()["provider"]["region"]
    (login,) = launcher()["initialization_commands"]
    fetch, _, pipe = login.partition(" | ")
    assert fetch == f"aws ecr get-login-password --region {region}"
    assert pipe == f"docker login --username AWS --password-stdin {registry}"
    assert f".{region}." in registry


def versions_of_ray() -> Iterator[str]:
    pins = re.findall(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    yield from pins
    yield from (spec["rayVersion"] for spec in cluster_specs().values())


def test_versions_are_those_of_the_project() -> None:
    assert len(set(versions_of_ray())) == 1
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {launcher()["docker"]["image"]} | {
        spec["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
        for spec in cluster_specs().values()
    }
    assert all(image.endswith(f"/trawl:{version}") for image in images)


def test_image_holds_what_a_job_needs_and_the_build_is_given_it() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    lines = text.splitlines()
    copied = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert copied >= {"engine", "models", "catalogs", "jobs", "checkpoints", "constraints.txt"}
    assert all((ROOT / name).exists() for name in copied)
    given = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert given == copied
    (packages,) = re.findall(r"apt-get install --yes --no-install-recommends ([^\\]+)", text)
    # The autoscaler on the head starts workers by ssh and brings them files by rsync.
    assert set(packages.split()) >= {"openssh-client", "rsync"}
    (extras,) = re.findall(r"--editable '\.\[(.+)\]'", text)
    assert wanted_by(extras.split(",")) >= {"boto3", "lsdb"}, "the autoscaler on AWS; `jobs crossmatch`"


def wanted_by(extras: list[str]) -> set[str]:
    """Names of the packages of extras, each of which must be pinned for the image."""
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {re.split(r"[^\w-]", line)[0] for extra in extras for line in optional[extra]}
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert names <= pinned
    return names


@pytest.mark.parametrize("path", [ROOT / "cluster.yaml", *MANIFESTS], ids=lambda path: path.stem)
def test_no_secret_is_written_down(path: Path) -> None:
    assert not SECRETS.search(path.read_text())


def test_what_travels_is_the_code_and_the_checkpoints_and_is_small(tmp_path: Path) -> None:
    from ray._private.ray_constants import RAY_RUNTIME_ENV_DEFAULT_EXCLUDES
    from ray._private.runtime_env.packaging import create_package

    package = tmp_path / "package.zip"
    excludes = RAY_RUNTIME_ENV_DEFAULT_EXCLUDES.split(",")
    create_package(str(ROOT), package, include_gitignore=True, excludes=excludes)
    with zipfile.ZipFile(package) as archive:
        files = [Path(name) for name in archive.namelist() if not name.endswith("/")]
    assert {path.parts[0] for path in files if len(path.parts) > 1} == {
        "engine", "models", "catalogs", "jobs", "checkpoints"
    }  # fmt: skip
    assert not {path.suffix for path in files} & {".fits", ".parquet", ".log"}
    assert Path("jobs/configs/desi.toml") in files
    assert package.stat().st_size < 50e6
