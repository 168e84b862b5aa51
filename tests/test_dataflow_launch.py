"""A launch of the flex template without the cloud: what is staged, the job's description, the jobs that are created.

Cloud Storage, Dataflow's jobs, Secret Manager and the metadata server are `tests/google_cloud.py`; gcloud, Beam,
Google's clients, the broker and Beam's expansion service are the real ones. What Dataflow itself does, nothing here can
show: it turns a launch request into the launcher's command line (`command_line` does here, by what Google documents and
its launcher logs), and runs the job.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from google.cloud.dataflow_v1beta3.types import ContainerSpec, Job, JobState, LaunchFlexTemplateRequest
from google.protobuf import json_format

from ami_beam.codecs.json_outputs import RESULT_TOPICS
from ami_beam.local import jars
from ami_beam.local.kafka_broker import KafkaBroker
from tests.dockerfile import ROOT, Dockerfile
from tests.google_cloud import ACCOUNT, BUCKET, PROJECT, REGION, TOKEN, GoogleCloud
from tests.kafka_replay import EVENTS, READS

pytestmark = pytest.mark.processes
FOLDER = ROOT / "templates" / "dataflow"
IMAGE = f"{REGION}-docker.pkg.dev/{PROJECT}/ami-beam/ami-beam:0.1.0"
COUNTS = f"gs://{BUCKET}/transformer_meter_count.csv"
SECRET = f"projects/{PROJECT}/secrets/ami-beam-kafka/versions/latest"
HINT = "--pipeline-option=resource_hints=min_ram=4GB"
PASSWORD = "pw-UNMISTAKABLE"
REQUEST_LIMIT = 10 * 2**20
"""Bytes of a request that creates a job, as Dataflow has it."""
NOBODY = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def cloud() -> Iterator[GoogleCloud]:
    with GoogleCloud() as running:
        running.objects["transformer_meter_count.csv"] = b"transformer_id,total_meters\nT1,2\n"
        running.objects["reads.jsonl"] = running.objects["events.jsonl"] = b""
        running.secrets[SECRET] = f"security.protocol=PLAINTEXT\nssl.key.password={PASSWORD}\n".encode()
        yield running


def environment(cloud: GoogleCloud, **more: str) -> dict[str, str]:
    """Without ways out: no proxy and no repository that could be asked for what is missing."""
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and name != "PYTHONPATH"}
    return {**kept, **cloud.environment, "AMI_BEAM_MAVEN_REPOSITORY": NOBODY, **more}


def settings(cloud: GoogleCloud, folder: Path) -> dict[str, str]:
    """What brings the scripts, and gcloud, to the local server."""
    text = (FOLDER / "settings.example").read_text()
    text = text.replace("my-project-ami-beam", BUCKET).replace("my-project", PROJECT)
    (folder / "settings").write_text(text)
    (folder / "token").write_text(TOKEN)
    return environment(
        cloud,
        SETTINGS=str(folder / "settings"),
        PYTHON=sys.executable,
        CLOUDSDK_CONFIG=str(folder / "gcloud"),
        CLOUDSDK_AUTH_ACCESS_TOKEN_FILE=str(folder / "token"),
        CLOUDSDK_API_ENDPOINT_OVERRIDES_DATAFLOW=f"{cloud.url}/",
        CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE=f"{cloud.url}/storage/v1/",
        CLOUDSDK_CORE_DISABLE_USAGE_REPORTING="1",
        CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK="1",
    )


def parameters(broker: str) -> dict[str, str]:
    return {
        "bootstrap_servers": broker,
        "meter_counts": COUNTS,
        "shards": "256",
        "kafka_config_file": f"secretmanager://{SECRET.removesuffix('/versions/latest')}",
        "kafka_config": "client.id=ami-beam 'metadata.max.age.ms=60000'",
    }


def command_line(request: dict[str, Any], spec: dict[str, Any]) -> list[str]:
    """What the launcher makes of a launch: environment and parameters as options, and where the job is described."""
    asked = request["launchParameter"]
    given = {**spec["defaultEnvironment"], **asked["environment"]}
    made = {
        "runner": "DataflowRunner",
        "project": PROJECT,
        "region": REGION,
        "job_name": asked["jobName"],
        "template_location": f"{given['stagingLocation']}/template_launches/2026-03-03_00_00_00-0/job_object",
        "staging_location": given["stagingLocation"],
        "temp_location": given["tempLocation"],
        "service_account_email": given["serviceAccountEmail"],
        "subnetwork": given["subnetwork"],
        "machine_type": given["machineType"],
        "num_workers": given["numWorkers"],
        "max_num_workers": given["maxWorkers"],
        "sdk_container_image": given["sdkContainerImage"],
        "an_option_of_a_later_launcher": "1",
        **asked["parameters"],
    }
    flags = ["--enable_streaming_engine"] if given["enableStreamingEngine"] else []
    flags += ["--no_use_public_ips"] if given["ipConfiguration"] == "WORKER_IP_PRIVATE" else []
    flags += [f"--{option}" for option in given.get("additionalPipelineOptions", ())]
    return [f"--{name}={value}" for name, value in made.items()] + flags


@dataclass(frozen=True)
class Launch:
    """What there is when the launcher has ended."""

    log: str
    job: dict[str, Any]
    raw_job: bytes
    pipeline: beam_runner_api_pb2.Pipeline
    raw_pipeline: bytes
    staged: dict[str, bytes]

    @property
    def pool(self) -> dict[str, Any]:
        (pool,) = self.job["environment"]["workerPools"]
        found: dict[str, Any] = pool
        return found

    @property
    def labels(self) -> set[str]:
        return {each.unique_name for each in self.pipeline.components.transforms.values()}


@pytest.fixture(scope="module")
def launch(cloud: GoogleCloud, kafka_broker: KafkaBroker, tmp_path_factory: pytest.TempPathFactory) -> Launch:
    folder = tmp_path_factory.mktemp("launch")
    names = [READS, EVENTS, *RESULT_TOPICS]
    kafka_broker.delete_topics(names)
    kafka_broker.create_topics(names, 2, "LogAppendTime")
    request, spec = asked_by_gcloud(cloud, parameters(kafka_broker.bootstrap_servers), folder)
    # The image, as its Dockerfile has it: the launcher starts a file in it.
    image = Dockerfile(FOLDER / "Dockerfile")
    laid = image.lay_out(folder / "image")
    place = image.environment()["PYTHONPATH"]
    main = image.environment()["FLEX_TEMPLATE_PYTHON_PY_FILE"].replace(place, str(laid))
    started = environment(cloud, PYTHONPATH=str(laid))
    before = set(cloud.objects)
    done = subprocess.run(
        [sys.executable, main, *command_line(request, spec)],
        cwd="/", env=started, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    assert cloud.unknown == []
    new = {name.rpartition("/")[2]: cloud.objects[name] for name in cloud.objects.keys() - before}
    raw, described = new.pop("pipeline.pb"), new.pop("job_object")
    pipeline = beam_runner_api_pb2.Pipeline.FromString(raw)
    return Launch(done.stdout + done.stderr, json.loads(described), described, pipeline, raw, new)


def asked_by_gcloud(cloud: GoogleCloud, values: dict[str, str], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The launch request and the template's file, by the scripts and the real gcloud where there is one."""
    words = [f"--{name}={value}" for name, value in values.items()]
    if shutil.which("gcloud") is None:
        spec = run(["-m", "ami_beam.flex_template", "spec", f"--image={IMAGE}"], environment(cloud))
        return by_hand(values), json.loads(spec)
    for command in ([str(FOLDER / "stage")], [str(FOLDER / "run"), "--at-least-once", HINT, *words]):
        done = subprocess.run(command, env=settings(cloud, folder), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    (request,) = cloud.launches
    bucket, _, name = request["launchParameter"]["containerSpecGcsPath"].removeprefix("gs://").partition("/")
    assert bucket == BUCKET
    assert request["launchParameter"]["environment"].keys() >= by_hand(values)["launchParameter"]["environment"].keys()
    return request, json.loads(cloud.objects[name])


def by_hand(values: dict[str, str]) -> dict[str, Any]:
    """The same request where there is no gcloud."""
    told = {
        "stagingLocation": f"gs://{BUCKET}/staging", "tempLocation": f"gs://{BUCKET}/temp",
        "serviceAccountEmail": ACCOUNT, "subnetwork": f"regions/{REGION}/subnetworks/ami-beam",
        "machineType": "n2-standard-2", "numWorkers": 1, "maxWorkers": 4, "enableStreamingEngine": True,
        "ipConfiguration": "WORKER_IP_PRIVATE",
        "additionalPipelineOptions": [
            "dataflow_service_options=streaming_mode_at_least_once", HINT.removeprefix("--pipeline-option="),
        ],
    }  # fmt: skip
    return {"launchParameter": {"jobName": "ami-beam", "parameters": values, "environment": told}}


def run(arguments: list[str], env: dict[str, str], code: int = 0) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stderr[-4000:]
    return done.stdout or done.stderr


class TestLaunch:
    def test_the_request_and_the_file_are_what_the_api_takes(
        self, launch: Launch, cloud: GoogleCloud, tmp_path: Path
    ) -> None:
        request = cloud.launches[0] if cloud.launches else by_hand({})
        json_format.ParseDict(request, LaunchFlexTemplateRequest()._pb)
        spec = json.loads(run(["-m", "ami_beam.flex_template", "spec", f"--image={IMAGE}"], environment(cloud)))
        json_format.ParseDict(spec, ContainerSpec()._pb)
        assert spec["image"] == spec["defaultEnvironment"]["sdkContainerImage"] == IMAGE

    def test_the_job_is_described_and_not_created(self, launch: Launch, cloud: GoogleCloud) -> None:
        assert cloud.jobs == []
        assert "The job is described at gs://" in launch.log
        json_format.ParseDict(launch.job, Job()._pb)
        assert (launch.job["name"], launch.job["type"]) == ("ami-beam", "JOB_TYPE_STREAMING")
        assert "--an_option_of_a_later_launcher is passed on" in launch.log

    def test_workers_are_as_the_launch_has_them(self, launch: Launch) -> None:
        told = launch.job["environment"]
        assert {"use_runner_v2", "enable_streaming_engine", "enable_windmill_service"} <= set(told["experiments"])
        assert told["serviceOptions"] == ["streaming_mode_at_least_once"]
        assert told["serviceAccountEmail"] == ACCOUNT
        assert launch.pool["numWorkers"] == 1
        assert launch.pool["autoscalingSettings"]["maxNumWorkers"] == 4
        assert launch.pool["machineType"] == "n2-standard-2"
        assert launch.pool["subnetwork"] == f"regions/{REGION}/subnetworks/ami-beam"
        assert launch.pool["ipConfiguration"] == "WORKER_IP_PRIVATE"
        images = sorted(each["containerImage"] for each in launch.pool["sdkHarnessContainerImages"])
        assert images == [IMAGE, "gcr.io/cloud-dataflow/v1beta3/beam_java17_sdk:2.70.0"]

    def test_the_jars_of_the_lock_are_staged_and_nothing_else_of_java(self, launch: Launch) -> None:
        staged = {sha256(content).hexdigest() for name, content in launch.staged.items() if name.endswith(".jar")}
        locked = {artefact.sha256 for artefact in jars.read_lock("kafka_io")}
        assert staged == locked | {sha256(jars.PATCHES.read_bytes()).hexdigest()}
        packages = {each["name"] for each in launch.pool["packages"]}
        assert packages == launch.staged.keys()

    def test_sizes_are_under_the_limits(self, launch: Launch) -> None:
        assert len(launch.raw_job) < REQUEST_LIMIT
        assert len(launch.raw_pipeline) < REQUEST_LIMIT

    def test_no_secret_is_in_what_is_stored_or_logged(self, launch: Launch) -> None:
        for held in (launch.raw_job, launch.raw_pipeline, launch.log.encode(), *launch.staged.values()):
            assert PASSWORD.encode() not in held
        reference = f"${{secretmanager:{SECRET}:ssl.key.password}}".encode()
        # Seven topics are written, four are read.
        assert launch.raw_pipeline.count(reference) >= 11
        assert b"amibeam.SecretManagerConfigProvider" in launch.raw_pipeline


class TestGraph:
    def test_the_steps_are_there(self, launch: Launch) -> None:
        written = {f"Kafka {topic}" for topic in RESULT_TOPICS if topic != "ami.config"}
        read = {"Reads", "Events", "PublishedGridAlerts", "PublishedAlarmRecords"}
        assert {f"{label}/WriteToKafka" for label in written} <= launch.labels
        assert {f"{label}/ReadFromKafka" for label in read} <= launch.labels
        ours = [line.split(" → ")[0] for line in (ROOT / "ami_beam" / "graph_steps.txt").read_text().splitlines()]
        listed = [label for label in ours[1 : ours.index("[everything]") - 1] if not label.startswith(" ")]
        assert len(listed) > 60
        assert {label for label in listed if label not in launch.labels} == set()

    def test_every_step_has_an_environment_of_a_container(self, launch: Launch) -> None:
        components = launch.pipeline.components
        assert {each.urn for each in components.environments.values()} == {"beam:env:docker:v1"}
        used = {each.environment_id for each in components.transforms.values()} - {""}
        assert used <= set(components.environments)
        (python,) = [each for each in components.environments.values() if IMAGE.encode() in each.payload]
        assert python.resource_hints == {"beam:resources:min_ram_bytes:v1": b"4000000000"}

    def test_reads_and_reference_data_are_in_their_windows(self, launch: Launch) -> None:
        components = launch.pipeline.components
        strategies = {
            each.unique_name: components.windowing_strategies[each.windowing_strategy_id]
            for each in components.pcollections.values()
        }
        # Windows of reads are ours, in state: Beam's would be recomputed as a whole for every late read.
        assert {each.window_fn.urn for each in strategies.values()} == {"beam:window_fn:global_windows:v1"}
        (counts,) = [each for name, each in strategies.items() if "MeterCounts/WindowInto" in name]
        assert counts.trigger.WhichOneof("trigger") == "repeat"

    def test_meter_counts_are_a_side_input(self, launch: Launch) -> None:
        users = set()
        for each in launch.pipeline.components.transforms.values():
            if each.spec.urn == "beam:transform:pardo:v1":
                payload = beam_runner_api_pb2.ParDoPayload.FromString(each.spec.payload)
                if payload.side_inputs:
                    users.add(each.unique_name.partition("/")[0])
        assert {"JoinMeterCounts", "DueWindows", "ExpandDueWindows", "GatherLateReads"} <= users

    def test_state_is_kept_in_our_coders(self, launch: Launch) -> None:
        components = launch.pipeline.components
        cells = 0
        for each in components.transforms.values():
            if each.spec.urn != "beam:transform:pardo:v1":
                continue
            payload = beam_runner_api_pb2.ParDoPayload.FromString(each.spec.payload)
            if components.environments[each.environment_id].payload.find(IMAGE.encode()) < 0:
                continue
            for state in payload.state_specs.values():
                kind = state.WhichOneof("spec")
                coder = state.bag_spec.element_coder_id if kind == "bag_spec" else state.read_modify_write_spec.coder_id
                assert b"MsgspecCoder" in whole(components, coder), each.unique_name
                cells += 1
        assert cells >= 10


def whole(components: beam_runner_api_pb2.Components, coder_id: str) -> bytes:
    """The payloads of a coder and of what it is made of."""
    coder = components.coders[coder_id]
    return coder.spec.payload + b"".join(whole(components, part) for part in coder.component_coder_ids)


class TestJobs:
    """Without a template: `ami_beam.run` creates the job itself. A replay of files needs no broker and no Java."""

    def arguments(self, cloud: GoogleCloud, *more: str) -> list[str]:
        return [
            "-m", "ami_beam.run", "--runner=DataflowRunner", f"--project={PROJECT}", f"--region={REGION}",
            f"--temp_location=gs://{BUCKET}/temp", f"--dataflow_endpoint={cloud.dataflow_endpoint}",
            f"--sdk_container_image={IMAGE}", "--source=files", "--sink=files", f"--reads=gs://{BUCKET}/reads.jsonl",
            f"--events=gs://{BUCKET}/events.jsonl", f"--meter_counts={COUNTS}", f"--output=gs://{BUCKET}/output",
            "--shards=16", "--job_name=replay", *more,
        ]  # fmt: skip

    def start(self, cloud: GoogleCloud, folder: Path, *more: str) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
        before = len(cloud.jobs)
        log = (folder / "log").open("wb")
        command = [sys.executable, *self.arguments(cloud, *more)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment(cloud), stdout=log, stderr=log)
        until = time.monotonic() + 240
        while len(cloud.jobs) == before:
            assert process.poll() is None, (folder / "log").read_text()[-4000:]
            assert time.monotonic() < until
            time.sleep(0.2)
        return process, cloud.jobs[-1]

    def test_sigterm_leaves_the_job_and_an_update_replaces_it(self, cloud: GoogleCloud, tmp_path: Path) -> None:
        process, job = self.start(cloud, tmp_path)
        try:
            time.sleep(1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, (tmp_path / "log").read_text()[-3000:]
        finally:
            process.kill()
        assert f"Job {job['id']} runs on at Dataflow" in (tmp_path / "log").read_text()
        assert job["currentState"] == "JOB_STATE_RUNNING"
        assert "dataflow" in cloud.authorized
        process, second = self.start(cloud, tmp_path, "--update", "--on_stop=cancel")
        try:
            assert second["replaceJobId"] == job["id"]
            time.sleep(1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, (tmp_path / "log").read_text()[-3000:]
        finally:
            process.kill()
        assert second["currentState"] == JobState.JOB_STATE_CANCELLED

    def test_what_is_not_there_is_named_before_anything_is_staged(self, cloud: GoogleCloud) -> None:
        before = dict(cloud.objects)
        said = run(self.arguments(cloud, f"--meter_counts=gs://{BUCKET}/none.csv"), environment(cloud), code=2)
        assert f"--meter_counts=gs://{BUCKET}/none.csv: no such file" in said
        secret = f"secretmanager://projects/{PROJECT}/secrets/none"
        said = run(self.arguments(cloud, f"--kafka_config_file={secret}"), environment(cloud), code=2)
        assert f"--kafka_config_file={secret}: the file cannot be read (NotFound)" in said
        assert cloud.objects == before
