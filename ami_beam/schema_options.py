"""The options about the format of records and the schema registry: their help and their checks."""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from ami_beam.beam_options import OptionError
from ami_beam.codecs.writer_schemas import Changes, Schemas, Written
from ami_beam.consumers import VALIDATED_READS
from ami_beam.io.schema_registry import RegistryAddress, RegistrySchemas
from ami_beam.option_checks import choice, output_of

Format = Literal["json", "avro"]
InputFormat = Literal["json", "avro", "debezium"]
_FORMATS = ("json", "avro")
_INPUT_FORMATS = ("json", "avro", "debezium")
_EXAMPLE = "--schema_registry=https://registry:8081"


def add_schema_options(group: Any) -> None:
    """They say in which format records are."""
    add = group.add_argument
    about = "records are JSON, or Avro in Confluent's wire format by the schemas of --schema_registry"
    add(
        "--reads_format",
        default="json",
        metavar="json|avro|debezium",
        help=f"of the reads: {about}; debezium: rows of a table of the head-end, whose changes Debezium publishes in"
        " JSON (json)",
    )
    add("--events_format", default="json", metavar="json|avro|debezium", help="of the events, likewise (json)")
    add("--oms_outages_format", default="json", metavar="json|avro|debezium", help="of --oms_outages, likewise (json)")
    add("--work_format", default="json", metavar="json|avro|debezium", help="of --work, likewise (json)")
    add(
        "--output_format",
        default="json",
        metavar="json|avro",
        help="of all result topics but ami.config, JSON or Avro; schemas are in ami_beam/schemas (json)",
    )
    add(
        "--schema_registry",
        metavar="URL",
        help="where Avro's schemas are: any registry that answers Confluent's REST calls. Example:"
        " https://registry:8081; of Apicurio http://registry:8080/apis/ccompat/v7 (none)",
    )
    add(
        "--schema_registry_config_file",
        metavar="PATH",
        help="settings of Confluent's Python client for it, as Java properties or JSON:"
        " basic.auth.user.info=NAME:SECRET, ssl.ca.location=ca.pem. At the same path for every process of the job;"
        " never logged (none)",
    )
    add(
        "--schema_registration",
        default="look_up",
        metavar="look_up|register",
        help="look_up: a start fails where the schemas of results are not registered; register: it registers them"
        " (look_up)",
    )
    add(
        "--validated_files",
        metavar="FOLDER",
        help="Avro files of validated reads, too, by day and hour of interval_start in --time_zone; a folder or gs://…;"
        " needs validated_reads in --also_publish (none)",
    )
    add(
        "--validated_files_every",
        default="15m",
        metavar="DURATION",
        help="how long a live run gathers rows for them: shorter makes more and smaller files; at least 1s (15m)",
    )


def format_of(values: Mapping[str, Any], name: str) -> InputFormat:
    """json, avro or debezium."""
    found: InputFormat = choice(values, name, _INPUT_FORMATS)
    return found


def registry_of(url: str | None, config_file: str | None, registration: str) -> RegistryAddress:
    """An address that can be asked. Raises OptionError, which never shows a password."""
    option = "--schema_registry"
    if url is None:
        raise OptionError(option, None, "is missing; Avro needs it for its schemas", "http://… or https://…", _EXAMPLE)
    for each in url.split(","):
        parts = urlsplit(each.strip())
        if parts.username is not None or parts.password is not None:
            problem = "has a login in it, which every user of this machine can read (it is not shown)"
            allowed = "an address without one, and basic.auth.user.info in --schema_registry_config_file"
            raise OptionError(option, None, problem, allowed, _EXAMPLE)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise OptionError(option, url, "is no address of a registry", "http://… or https://…", _EXAMPLE)
    if registration not in ("look_up", "register"):
        allowed = "look_up or register"
        raise OptionError("--schema_registration", registration, "is neither", allowed, "--schema_registration=look_up")
    if config_file is not None and "://" not in config_file:
        # Workers have other working folders.
        config_file = os.path.abspath(config_file)
    address = RegistryAddress(url, config_file, "register" if registration == "register" else "look_up")
    with address.client():
        return address


@dataclass(frozen=True)
class Formats:
    """In which format records are."""

    reads: InputFormat = "json"
    events: InputFormat = "json"
    oms_outages: InputFormat = "json"
    work: InputFormat = "json"
    output: Format = "json"
    registry: RegistryAddress | None = None
    """There where any format is Avro. Results may also have been Avro in earlier runs."""

    def schemas(self) -> RegistrySchemas | None:
        """Where the schemas of results that are read again are looked up."""
        return None if self.registry is None else RegistrySchemas(self.registry)

    def inputs(self) -> Schemas:
        """How what is read was written."""
        written = self._written
        return Schemas(written(self.reads), written(self.events), written(self.oms_outages), written(self.work))

    def _written(self, how: InputFormat) -> Written:
        return self.schemas() if how == "avro" else Changes() if how == "debezium" else None


JSON = Formats()


def formats_of(values: Mapping[str, Any], sinks: tuple[str, ...]) -> Formats:
    """The formats of a command line. Raises OptionError, also where the registry's settings cannot be used."""
    reads, events = format_of(values, "reads_format"), format_of(values, "events_format")
    outages, work = format_of(values, "oms_outages_format"), format_of(values, "work_format")
    output: Format = choice(values, "output_format", _FORMATS)
    if output == "avro" and "kafka" not in sinks:
        problem = "a file of --sink=files has JSON lines, and a table has columns"
        raise OptionError("--output_format", output, problem, "json, or --sink=kafka", "--output_format=json")
    named = values["schema_registry"] or values["schema_registry_config_file"]
    if "avro" not in (reads, events, outages, work, output) and named is None:
        return Formats(reads, events, outages, work)
    registry = registry_of(
        values["schema_registry"], values["schema_registry_config_file"], values["schema_registration"]
    )
    return Formats(reads, events, outages, work, output, registry)


def validated_files_of(values: Mapping[str, Any], also_publish: Container[str]) -> str | None:
    """A folder that can be written to, or made; None where none is named."""
    path = values["validated_files"]
    if path is None:
        return None
    if VALIDATED_READS not in also_publish:
        problem = "there are no validated reads in this run"
        allowed = f"a folder, with {VALIDATED_READS} in --also_publish"
        example = f"--also_publish={VALIDATED_READS} --validated_files=validated"
        raise OptionError("--validated_files", path, problem, allowed, example)
    return output_of(path, "--validated_files")
