"""The Kubernetes manifests are valid, restricted, and agree with the code; the image holds what they start.

The schema of FlinkDeployment is the operator's own, from its released jar, which a lock pins. Those of Kubernetes' own
kinds come with the package kubernetes-validate. Neither a cluster nor an image builder is needed, and none is used.
"""

import copy
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from ami_beam.flink_checks import FLINK_VERSION, bytes_of, check_settings
from ami_beam.flink_submission import DEFAULTS
from ami_beam.local import flink_distribution, jars
from ami_beam.local.flink_cluster import OPENED
from ami_beam.options import help_text, validate
from ami_beam.worker_pool import DEFAULT_PORT
from tests.dockerfile import Dockerfile

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "templates" / "kubernetes"
FOLDERS = ("setup", "cluster", "submit", "resume", "stop")
# The oldest and the newest that the package knows. The oldest is the first in which the namespace's label counts.
KUBERNETES = ("1.25", kubernetes_validate.latest_version())
CRD = "META-INF/fabric8/flinkdeployments.flink.apache.org-v1.yml"
DOCKERFILE = Dockerfile(FOLDER / "Dockerfile")

Manifest = dict[str, Any]


def documents(folder: str) -> list[Manifest]:
    """The manifests that a folder's kustomization names, as they are written."""
    kustomization = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text())
    found: list[Manifest] = []
    for name in kustomization["resources"]:
        path = FOLDER / folder / name
        found += documents(path.resolve().name) if path.is_dir() else yaml.safe_load_all(path.read_text())
    for patch in kustomization.get("patches", ()):
        (target,) = [each for each in found if each["kind"] == patch["target"]["kind"]]
        for change in yaml.safe_load(patch["patch"]):
            assert (change["op"], change["path"]) == ("add", "/spec/template/spec/containers/0/args/-")
            target["spec"]["template"]["spec"]["containers"][0]["args"].append(change["value"])
    return found


def the(kind: str, *folders: str) -> Manifest:
    (found,) = [each for folder in folders for each in documents(folder) if each["kind"] == kind]
    return found


EVERY = [(folder, each) for folder in FOLDERS for each in documents(folder)]
NAMED = [pytest.param(each, id=f"{folder}-{each['kind']}-{each['metadata']['name']}") for folder, each in EVERY]
DEPLOYMENT = the("FlinkDeployment", "cluster")
SETTINGS: dict[str, str] = DEPLOYMENT["spec"]["flinkConfiguration"]
TEMPLATES = {side: DEPLOYMENT["spec"][side]["podTemplate"] for side in ("jobManager", "taskManager")}


def pods() -> Iterator[tuple[str, Manifest]]:
    """Every pod's specification, with a name."""
    yield from ((side, template["spec"]) for side, template in TEMPLATES.items())
    for folder, each in EVERY:
        if each["kind"] in ("Job", "Deployment"):
            yield f"{folder}-{each['metadata']['name']}", each["spec"]["template"]["spec"]


PODS = [pytest.param(pod, id=name) for name, pod in pods()]


def container(pod: Manifest, name: str) -> Manifest:
    (found,) = [each for each in pod["containers"] if each["name"] == name]
    return found


SUBMISSION: Manifest = the("Job", "resume")["spec"]["template"]["spec"]
ARGUMENTS: list[str] = container(SUBMISSION, "submit")["args"]
WORKERS = container(TEMPLATES["taskManager"]["spec"], "ami-beam-workers")


# --- schemas ---------------------------------------------------------------------------------------------------------


def strict(schema: Any) -> Any:
    """The schema, refusing fields that it does not know: Kubernetes drops them, and a misspelt one has no effect."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    result = {name: strict(value) for name, value in schema.items()}
    known = schema.get("properties")
    if isinstance(known, dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    return result


@cache
def operator_schema() -> Manifest:
    (jar,) = jars.fetch("flink_operator")
    with zipfile.ZipFile(jar) as archive:
        definition = yaml.load(archive.read(CRD), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = [each for each in definition["spec"]["versions"] if each["name"] == "v1beta1"]
    schema: Manifest = strict(version["schema"]["openAPIV3Schema"])
    # Kubernetes checks these three by itself.
    schema["properties"] |= {"apiVersion": {"const": "flink.apache.org/v1beta1"}, "kind": {"const": "FlinkDeployment"}}
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return schema


def check(manifest: Manifest) -> None:
    """Raises a ValidationError of one of the two packages."""
    if manifest["kind"] == "FlinkDeployment":
        jsonschema.Draft202012Validator(operator_schema()).validate(manifest)
        for side in ("jobManager", "taskManager"):
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": side}}
            check(pod | {"template": manifest["spec"][side]["podTemplate"]})
        return
    for version in KUBERNETES:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("manifest", NAMED)
def test_manifests_are_valid(manifest: Manifest) -> None:
    check(manifest)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "taskManger"), {}),
        (("spec", "flinkVersion"), "v1_21"),
        (("spec", "mode"), "session"),
        (("spec", "flinkConfiguration", "heartbeat.timeout"), 15000),
        (("spec", "taskManager", "replicas"), "four"),
        (("spec", "taskManager", "podTemplate", "spec", "securityContext", "runAsRoot"), False),
    ],
)
def test_the_operators_schema_refuses_what_it_does_not_know(path: tuple[str, ...], value: Any) -> None:
    broken = copy.deepcopy(DEPLOYMENT)
    place = broken
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(operator_schema()).validate(broken)


def test_kubernetes_schemas_refuse_what_they_do_not_know() -> None:
    broken = copy.deepcopy(the("Job", "submit"))
    broken["spec"]["backofLimit"] = 0
    with pytest.raises(kubernetes_validate.ValidationError):
        check(broken)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
@pytest.mark.parametrize("folder", FOLDERS)
def test_kustomize_renders_what_is_written(folder: str) -> None:
    command = ["kubectl", "kustomize", str(FOLDER / folder)]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = list(yaml.safe_load_all(rendered))
    for each in found:
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "ami-beam"
        check(each)
    written = documents(folder)
    assert sorted((each["kind"], each["metadata"]["name"]) for each in found) == sorted(
        (each["kind"], each["metadata"]["name"]) for each in written
    )
    image = yaml.safe_load((FOLDER / "image" / "kustomization.yaml").read_text())["images"][0]
    assert "image: ami-beam\n" not in rendered
    uses = json.dumps(written).count('"image": "ami-beam"')
    assert rendered.count(f"image: {image['newName']}:{image['newTag']}\n") == uses
    assert [args for each in found if each["kind"] == "Job" for args in arguments(each)] == [
        args for each in written if each["kind"] == "Job" for args in arguments(each)
    ]


def arguments(job: Manifest) -> list[str]:
    return list(job["spec"]["template"]["spec"]["containers"][0]["args"])


# --- what must agree with the code -----------------------------------------------------------------------------------


def test_the_flink_is_the_one_the_jars_are_for() -> None:
    assert DEPLOYMENT["spec"]["flinkVersion"] == f"v{FLINK_VERSION.replace('.', '_')}"
    pinned = re.search(r"==(\S+)", Path(flink_distribution.__file__).with_suffix(".txt").read_text())
    assert pinned is not None
    assert DEPLOYMENT["spec"]["image"].startswith(f"flink:{pinned[1]}-")


def test_the_worker_pool_is_where_a_job_looks_for_it() -> None:
    assert WORKERS["command"] == ["python", "-m", "ami_beam.worker_pool", f"--port={DEFAULT_PORT}"]
    for probe in ("readinessProbe", "livenessProbe"):
        assert f"('127.0.0.1', {DEFAULT_PORT})" in WORKERS[probe]["exec"]["command"][-1]
    assert not any(argument.startswith("--environment") for argument in ARGUMENTS)


def test_the_probe_tells_whether_the_port_is_open() -> None:
    command = [sys.executable, *WORKERS["livenessProbe"]["exec"]["command"][1:]]
    # Port 1 belongs to nobody here.
    command[-1] = command[-1].replace(str(DEFAULT_PORT), "1")
    assert subprocess.run(command, capture_output=True).returncode


def test_the_job_fits_the_slots() -> None:
    slots = DEPLOYMENT["spec"]["taskManager"]["replicas"] * int(SETTINGS["taskmanager.numberOfTaskSlots"])
    assert f"--parallelism={slots}" in ARGUMENTS
    # A session in native mode has no slots before its first job.
    assert DEPLOYMENT["spec"]["mode"] == "standalone"


def test_the_submission_takes_its_options(tmp_path: Path) -> None:
    (tmp_path / "client.properties").write_text("security.protocol=SASL_SSL\n")
    (tmp_path / "transformer_meter_count.csv").write_text("transformer_id,total_meters\nTR-1,3\n")
    here = [re.sub(r"/etc/ami-beam/[^/]+/", f"{tmp_path}/", argument) for argument in ARGUMENTS]
    settings, plan = validate(here)
    assert not plan.warnings
    assert (plan.runner, plan.kafka_io, plan.return_when) == ("FlinkRunner", "native", "checkpointed")
    # Kubernetes evicts pods, and the default would end the job with this one.
    assert plan.on_stop == "leave"
    # Chosen by the code it would change with the network, and no savepoint would fit.
    assert not plan.choose_shards
    assert settings.shards > 0
    defaults = [f"{name}={value}" for name, value in DEFAULTS.items()]
    warnings = check_settings(SETTINGS, [*plan.pipeline_args, *defaults], "ami-beam-rest:8081")
    assert len(warnings) == 1
    assert warnings[0].startswith("Checkpoints go to file:///flink-state/checkpoints, a local path")


def test_the_help_names_every_option_of_the_submission() -> None:
    said = set(re.findall(r"--[a-z_]+", help_text()))
    assert {argument.partition("=")[0] for argument in ARGUMENTS} <= said


def test_the_first_submission_has_empty_state_and_the_next_one_has_not() -> None:
    first = container(the("Job", "submit")["spec"]["template"]["spec"], "submit")["args"]
    assert set(ARGUMENTS) - set(first) == {f"--savepoint_path={SETTINGS['state.savepoints.dir']}"}


@pytest.mark.parametrize(
    "pod", [pytest.param(SUBMISSION, id="submit"), *(pytest.param(t["spec"]) for t in TEMPLATES.values())]
)
def test_state_is_on_the_one_volume_that_all_of_them_see(pod: Manifest) -> None:
    (claim,) = [each["metadata"]["name"] for _, each in EVERY if each["kind"] == "PersistentVolumeClaim"]
    (volume,) = [each["name"] for each in pod["volumes"] if "persistentVolumeClaim" in each]
    assert [each["persistentVolumeClaim"]["claimName"] for each in pod["volumes"] if each["name"] == volume] == [claim]
    mounts = [each for each in pod["containers"] for mount in each["volumeMounts"] if mount["name"] == volume]
    assert len(mounts) == 1
    (place,) = [mount["mountPath"] for mount in mounts[0]["volumeMounts"] if mount["name"] == volume]
    for name in ("high-availability.storageDir", "state.checkpoints.dir", "state.savepoints.dir"):
        assert SETTINGS[name].startswith(f"file://{place}/")


def test_files_of_the_submission_are_mounted_and_workers_see_the_meter_counts() -> None:
    def mounted(each: Manifest) -> set[str]:
        return {mount["mountPath"] for mount in each["volumeMounts"]}

    paths = {argument.partition("=")[2] for argument in ARGUMENTS if "=/etc/" in argument}
    assert len(paths) == 2
    assert {str(Path(path).parent) for path in paths} <= mounted(container(SUBMISSION, "submit"))
    assert "/etc/ami-beam/meter-counts" in mounted(WORKERS)
    # A subPath would keep the first content for ever, and meter counts change.
    assert "subPath" not in json.dumps(TEMPLATES)


def test_the_rest_server_takes_the_jars() -> None:
    staged = sum(path.stat().st_size for path in jars.fetch("flink"))
    assert bytes_of(SETTINGS["rest.server.max-content-length"]) > staged * 1.1


def test_the_jvms_open_what_beam_needs() -> None:
    assert set(SETTINGS["env.java.opts.all"].split()) == set(OPENED)


def test_flink_knows_every_setting() -> None:
    (core,) = [path for path in jars.fetch("flink") if path.name.startswith("flink-core-1")]
    with zipfile.ZipFile(core) as archive:
        names = [name for name in archive.namelist() if re.match(r"org/apache/flink/configuration/\w+\.class", name)]
        options = b"".join(archive.read(name) for name in names)
    for name in SETTINGS:
        # A reporter's settings have its name, which is ours, in the middle.
        if name in ("metrics.reporter.prom.factory.class", "metrics.reporter.prom.port"):
            continue
        # How a class file holds a text.
        assert b"\x01" + len(name).to_bytes(2) + name.encode() in options, name


def test_the_policies_name_the_ports_of_the_settings() -> None:
    policies = {each["metadata"]["name"]: each["spec"] for _, each in EVERY if each["kind"] == "NetworkPolicy"}
    assert policies["nobody-unless-named"] == {"podSelector": {}, "policyTypes": ["Ingress"]}

    def ports(name: str) -> set[int]:
        return {port["port"] for rule in policies[name]["ingress"] for port in rule["ports"]}

    metrics = int(SETTINGS["metrics.reporter.prom.port"])
    assert ports("jobmanager") == {
        *(8081, metrics),
        *(int(SETTINGS[name]) for name in ("high-availability.jobmanager.port", "blob.server.port")),
    }
    assert ports("taskmanager") == {
        metrics,
        int(SETTINGS["taskmanager.data.port"]),
        int(SETTINGS["taskmanager.rpc.port"]),
    }
    # Everybody else needs a password for the proxy.
    assert [name for name, spec in policies.items() if any("from" not in rule for rule in spec.get("ingress", ()))] == [
        "ui"
    ]


def test_only_named_pods_reach_rest() -> None:
    (policy,) = [each["spec"] for _, each in EVERY if each["metadata"]["name"] == "jobmanager"]
    (rule,) = [each for each in policy["ingress"] if {"port": 8081} in each["ports"]]
    allowed = [each["podSelector"]["matchLabels"] for each in rule["from"] if "namespaceSelector" not in each]
    labels = [
        each["spec"]["template"]["metadata"]["labels"] for _, each in EVERY if each["kind"] in ("Job", "Deployment")
    ]
    assert all(each in allowed for each in labels)
    assert all(each in labels for each in allowed)


@pytest.mark.parametrize("pod", PODS)
def test_pods_are_restricted(pod: Manifest) -> None:
    """As the namespace's label demands, and with a root file system that nobody writes to."""
    assert the("Namespace", "setup")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for each in pod["containers"]:
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "/tmp" in {mount["mountPath"] for mount in each["volumeMounts"]}
        # The operator gives Flink's own container its resources.
        assert each["name"] == "flink-main-container" or each["resources"]["limits"]["memory"]


def test_no_manifest_holds_a_secret() -> None:
    assert not [each for _, each in EVERY if each["kind"] == "Secret"]
    text = json.dumps([each for _, each in EVERY if each["kind"] != "ConfigMap"])
    assert not re.search(r"password|jaas|--kafka_config\b", text, re.IGNORECASE)


# --- the image -------------------------------------------------------------------------------------------------------


def test_the_image_is_built_from_what_there_is() -> None:
    assert all((ROOT / source).exists() for source, _ in DOCKERFILE.copies())
    assert not any("*" in source or fnmatch.fnmatch(source, "-*") for source, _ in DOCKERFILE.copies())
    install = [rest for name, rest in DOCKERFILE.stage("build") if name == "RUN" and "pip install" in rest]
    assert install == ["pip install --require-hashes --no-deps -r requirements/runtime.txt && pip check"]


def test_the_image_starts_what_the_manifests_ask_for(tmp_path: Path) -> None:
    folder = DOCKERFILE.lay_out(tmp_path)
    commands = [each["command"] for _, pod in pods() for each in pod["containers"] if "command" in each]
    (command,) = [json.loads(rest) for name, rest in DOCKERFILE.stages()[-1] if name == "CMD"]
    modules = {each[2] for each in [*commands, command]}
    assert modules == {"ami_beam.run", "ami_beam.worker_pool", "ami_beam.flink_stop"}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # The pool starts this one.
    for module in sorted(modules | {"ami_beam.worker"}):
        assert callable(import_module(module).main)
        command = [sys.executable, "-m", module, "--help"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "usage" in done.stdout


def test_the_image_brings_the_jars(tmp_path: Path) -> None:
    """The build has no more than these files when it fetches them, and a submission asks for no others."""
    before = {}
    for name, rest in DOCKERFILE.stage("build"):
        if name == "RUN" and "jars.fetch" in rest:
            break
        if name == "COPY":
            before[rest.split()[0]] = rest.split()[1]
    for source, target in before.items():
        (tmp_path / target).mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / target, dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / source, tmp_path / target)
    words = shlex.split(rest)
    assert words[:2] == ["python", "-c"]
    done = subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fetched = set(re.findall(r"jars\.fetch\('(\w+)'\)", words[2]))
    sources = [(ROOT / "ami_beam" / name).read_text() for name in ("flink_submission.py", "local/job_server.py")]
    used = {name for text in sources for name in re.findall(r'jars\.(?:fetch|class_path)\("(\w+)"\)', text)}
    assert fetched == used


def test_nothing_is_downloaded_when_a_container_runs() -> None:
    build, final = dict.fromkeys(map(" ".join, DOCKERFILE.stage("build"))), DOCKERFILE.stages()[-1]
    assert not [rest for name, rest in final if name == "RUN" and re.search(r"pip|apt|curl|wget|jars", rest)]
    taken = {rest.split()[-1] for name, rest in final if name == "COPY"}
    assert {"/opt/venv", "/opt/ami-beam-cache", "/opt/ami-beam"} == taken
    assert "ENV AMI_BEAM_CACHE=/opt/ami-beam-cache" in build
    (variables,) = [rest for name, rest in final if name == "ENV"]
    assert "AMI_BEAM_CACHE=/opt/ami-beam-cache" in variables.split()
    assert ("USER", "9999:9999") in final


# --- the documentation -----------------------------------------------------------------------------------------------


def test_the_documentation_names_what_there_is() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    for path in set(re.findall(r"templates/kubernetes[\w./-]*", text)):
        assert (ROOT / path.rstrip(".")).exists(), path
    for option in set(re.findall(r"(?<![\w-])--(\w+_\w+)", text)):
        assert f"--{option}" in help_text(), option
    secrets = {volume["secret"]["secretName"] for _, pod in pods() for volume in pod["volumes"] if "secret" in volume}
    maps = {volume["configMap"]["name"] for _, pod in pods() for volume in pod["volumes"] if "configMap" in volume}
    assert secrets == {"ami-beam-kafka", "ami-beam-ui-tls", "ami-beam-ui-users"}
    assert all(re.search(rf"create secret \w+ {name}\b", text) for name in secrets)
    assert all(f"create configmap {name}" in text for name in maps - {"ami-beam-ui"})
    (operator,) = jars.read_lock("flink_operator")
    assert f"({operator.coordinates.rpartition(':')[2]})" in text
