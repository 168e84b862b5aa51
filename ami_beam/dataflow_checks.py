"""What a job on Dataflow needs of its options, and what cannot work there: refused before a graph is built.

A flex template's launcher starts `ami_beam.run` with `--template_location`: Beam then writes the job's description
there instead of creating the job, and Dataflow creates it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, SetupOptions, WorkerOptions

from ami_beam.beam_options import OptionError
from ami_beam.io.secret_manager import EXAMPLE as SECRET
from ami_beam.io.secret_manager import is_secret

RUNNERS = ("DataflowRunner", "TestDataflowRunner")
AT_LEAST_ONCE = "streaming_mode_at_least_once"
_BUCKET = "gs://BUCKET"
_IMAGE = "--sdk_container_image=REGION-docker.pkg.dev/PROJECT/ami-beam/ami-beam:VERSION"
_FILES = ("meter_counts", "meter_registry", "producers", "validated_files")
"""Options whose files workers read or write while the job runs."""
_SECRETS = ("kafka_config_file", "schema_registry_config_file", "postgresql_config_file", "customer_key_file")
"""Likewise, and they hold secrets."""
_REPLAY_FILES = ("reads", "events", "oms_outages", "work", "output")
_JOB_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,1022}[a-z0-9])?")
_SUBNETWORK = re.compile(
    r"(?:https://www\.googleapis\.com/compute/v1/projects/[^/]+/)?regions/([^/]+)/subnetworks/[^/]+"
)


def on_dataflow(runner: str) -> bool:
    """Whether the runner, in Beam's spelling, is Dataflow's."""
    return runner.rpartition(".")[2].removesuffix("()") in RUNNERS


def launched(arguments: Sequence[str]) -> bool:
    """Whether a flex template's launcher wrote this command line."""
    return any(word.partition("=")[0] == "--template_location" for word in arguments)


def check_dataflow(
    values: Mapping[str, Any],
    explicit: set[str],
    arguments: Sequence[str],
    source: str,
    sinks: Sequence[str],
    kafka_io: str,
) -> list[str]:
    """Raises OptionError. Returns warnings.

    Args:
      values: of our options, by name, as texts.
      explicit: names, with dashes, of those that are on the command line.
      arguments: Beam's options.
      source, sinks, kafka_io: as they were understood.
    """
    options = PipelineOptions(list(arguments))
    cloud = options.view_as(GoogleCloudOptions)
    _check_place(cloud)
    _check_workers(options, cloud)
    _check_files(values, source, sinks)
    if kafka_io == "native":
        raise OptionError(
            "--kafka_io", "native",
            "keeps its consumers between bundles in one process, and Dataflow goes on in any: it was not tried there",
            "beam, or auto, which is beam on Dataflow", "--kafka_io=beam",
        )  # fmt: skip
    if "--on_stop" in explicit and values["on_stop"] == "savepoint":
        raise OptionError(
            "--on_stop", "savepoint", "Dataflow has no savepoints; a job goes on with --update",
            "leave or cancel", "--on_stop=leave",
        )  # fmt: skip
    if values["return_when"] == "checkpointed":
        raise OptionError(
            "--return_when", "checkpointed", "nobody is told of Dataflow's checkpoints",
            "ended; a template's launch returns when the job is described", "--return_when=ended",
        )  # fmt: skip
    if cloud.update and values["shards"] == "auto":
        raise OptionError(
            "--shards", "auto", "could be another number than in the job that is updated, whose state would not fit",
            "the number that the running job logged at its start", "--update --job_name=ami-beam --shards=256",
        )  # fmt: skip
    return _warnings(values, options, cloud, source, sinks)


def _check_place(cloud: GoogleCloudOptions) -> None:
    for name, value, example in (
        ("--project", cloud.project, "--project=my-project"),
        ("--region", cloud.region, "--region=europe-west4"),
        ("--temp_location", cloud.temp_location, f"--temp_location={_BUCKET}/temp"),
    ):
        if not value:
            raise OptionError(name, None, "is missing, and Dataflow needs it", "", example)
    for name in ("temp_location", "staging_location", "template_location"):
        value = getattr(cloud, name)
        if value and not re.match(r"gs://[^/]+", value):
            raise OptionError(f"--{name}", value, "is no place in Cloud Storage", "gs://…", f"--{name}={_BUCKET}/temp")
    if cloud.job_name and not _JOB_NAME.fullmatch(cloud.job_name):
        allowed = "small letters, digits and '-', a letter first and no '-' last"
        raise OptionError("--job_name", cloud.job_name, "is no name for a job", allowed, "--job_name=ami-beam")
    if cloud.update and not cloud.job_name:
        raise OptionError("--job_name", None, "is missing; --update needs the running job's", "", "--job_name=ami-beam")


def _check_workers(options: PipelineOptions, cloud: GoogleCloudOptions) -> None:
    workers, setup = options.view_as(WorkerOptions), options.view_as(SetupOptions)
    if not (workers.sdk_container_image or setup.setup_file or setup.extra_packages):
        raise OptionError(
            "--sdk_container_image", None, "is missing; workers have Beam, but not ami-beam",
            "the image of templates/dataflow/Dockerfile, or --setup_file=./setup.py", _IMAGE,
        )  # fmt: skip
    subnetwork = workers.subnetwork
    if subnetwork:
        match = _SUBNETWORK.fullmatch(subnetwork)
        allowed = "regions/REGION/subnetworks/NAME, or its whole address where it is another project's (shared VPC)"
        example = f"--subnetwork=regions/{cloud.region}/subnetworks/ami-beam"
        if match is None:
            raise OptionError("--subnetwork", subnetwork, "is no subnetwork", allowed, example)
        if match[1] != cloud.region:
            raise OptionError("--subnetwork", subnetwork, f"is not in --region={cloud.region}", allowed, example)
    if workers.max_num_workers and workers.num_workers and workers.num_workers > workers.max_num_workers:
        raise OptionError(
            "--num_workers", str(workers.num_workers), f"is more than --max_num_workers={workers.max_num_workers}",
            "at most as many", f"--num_workers=1 --max_num_workers={workers.max_num_workers}",
        )  # fmt: skip


def _check_files(values: Mapping[str, Any], source: str, sinks: Sequence[str]) -> None:
    names = list(_FILES)
    # With a meter registry nobody reads the default.
    if values["meter_registry"] and values["meter_counts"] == "transformer_meter_count.csv":
        names.remove("meter_counts")
    if source == "files":
        names += [name for name in _REPLAY_FILES if name != "output"]
    if "files" in sinks:
        names.append("output")
    for name in names:
        value = values[name]
        if value is not None and "://" not in value:
            raise OptionError(
                f"--{name}", value, "is a local path, which workers do not have",
                "gs://…", f"--{name}={_BUCKET}/{value.rstrip('/').rpartition('/')[2] or name}",
            )  # fmt: skip
    for name in _SECRETS:
        value = values[name]
        if value is not None and not is_secret(value):
            raise OptionError(
                f"--{name}", value, "is a file, which workers do not have, or which others can read",
                "a secret of Secret Manager that the workers' service account may read", f"--{name}={SECRET}",
            )  # fmt: skip


def _warnings(
    values: Mapping[str, Any], options: PipelineOptions, cloud: GoogleCloudOptions, source: str, sinks: Sequence[str]
) -> list[str]:
    workers = options.view_as(WorkerOptions)
    warnings = []
    live = source == "kafka"
    if live and not workers.max_num_workers:
        warnings.append(
            "--max_num_workers is not given: Dataflow may scale to 100 workers, and a backlog makes it do so"
        )
    if live and values["shards"] == "auto":
        warnings.append(
            "--shards=auto: a later --update needs the number that is logged here; name it from the beginning"
        )
    if live and not cloud.job_name:
        warnings.append("--job_name is not given: a job of a name that nobody knows cannot be updated")
    if workers.use_public_ips is False and not workers.subnetwork and not workers.network:
        warnings.append(
            "--no_use_public_ips without --subnetwork: workers are in the network default, which needs Private Google"
            " Access and a way to the brokers"
        )
    if "bigquery" in sinks and not options.get_all_options().get("beam_services"):
        warnings.append(
            "--sink=bigquery: Beam fetches its expansion service for BigQuery at launch; --beam_services can name it"
        )
    return warnings
