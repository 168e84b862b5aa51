"""The schema registry, by Confluent's client: schemas are registered or looked up at start, and by id when reading.

A registry that does not answer says nothing of a record: who asks then fails, and the runner tries again from its last
checkpoint. Only an id of which the registry says that it never gave it makes a dead letter.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from confluent_kafka.schema_registry import RegisteredSchema, Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError
from fastavro import parse_schema

from ami_beam import kafka_config
from ami_beam.beam_options import OptionError
from ami_beam.codecs.writer_schemas import WriterSchema, unknown_schema
from ami_beam.schemas import schema_text, subject_of

Registration = Literal["look_up", "register"]
Answer = TypeVar("Answer")
PATIENCE_SECONDS = 120.0
"""How long a registry may be away before a bundle fails, as long as a broker may be."""
FORGET_SECONDS = 60.0
"""An id that the registry did not know is asked for again after this."""
MOST_UNKNOWN = 10_000
GREATEST_ID = 2**31 - 1
_UNKNOWN_SCHEMA = 40403
_UNKNOWN_SUBJECT = (40401, 40402)
_DEFAULTS = {"timeout": 10, "max.retries": 1}
_NUMBERS = ("timeout", "max.retries", "retries.wait.ms", "retries.max.wait.ms", "cache.capacity")
_log = logging.getLogger(__name__)
for _transport in ("httpx", "httpx2"):
    # Says of every request that it was made: in a flood of ids that nobody knows, of each.
    logging.getLogger(_transport).setLevel(logging.WARNING)


class RegistryError(RuntimeError):
    """The registry cannot be used, or has refused something; the message names it, and no secret."""


@dataclass(frozen=True)
class RegistryAddress:
    """Where the registry is, as a job's graph may hold it: secrets stay in their file, which every process reads."""

    url: str
    config_file: str | None = None
    """Settings of Confluent's client: Java properties or JSON."""
    registration: Registration = "look_up"

    def client(self) -> SchemaRegistryClient:
        """Raises OptionError for a file that cannot be used, which names settings and never their values."""
        config: dict[str, Any] = dict(_DEFAULTS)
        given = kafka_config.load(self.config_file) if self.config_file is not None else {}
        for name, value in kafka_config.resolved(given).items():
            config[name] = float(value) if name in _NUMBERS and value.replace(".", "", 1).isdigit() else value
        if config.get("basic.auth.credentials.source") == "USER_INFO":
            # So in files that Java's clients read, too; here it is the only one.
            del config["basic.auth.credentials.source"]
        for name in ("max.retries", "retries.wait.ms", "retries.max.wait.ms", "cache.capacity"):
            if isinstance(config.get(name), float):
                config[name] = int(config[name])
        try:
            return SchemaRegistryClient(config | {"url": self.url})
        except Exception as error:  # of several kinds, and some quote what they were given
            names = ", ".join(sorted(given))
            raise OptionError(
                "--schema_registry_config_file",
                self.config_file,
                f"{type(error).__name__}: Confluent's client does not take these settings: {names}",
                "its settings, such as basic.auth.user.info, ssl.ca.location",
                "--schema_registry_config_file=registry.properties",
            ) from None


class RegistrySchemas:
    """Writers' schemas by their id, each fetched once in a process and kept."""

    def __init__(self, address: RegistryAddress, patience: float = PATIENCE_SECONDS) -> None:
        self._address = address
        self._patience = patience
        self._client: SchemaRegistryClient | None = None
        self._known: dict[int, WriterSchema] = {}
        self._unknown: dict[int, float] = {}

    def __reduce__(self) -> tuple[type[RegistrySchemas], tuple[RegistryAddress, float]]:
        return RegistrySchemas, (self._address, self._patience)

    def schema(self, number: int) -> WriterSchema:
        """Raises Rejection AVRO_UNKNOWN_SCHEMA, or RegistryError when nobody has answered for `patience` seconds."""
        found = self._known.get(number)
        if found is not None:
            return found
        if number > GREATEST_ID or self._unknown.get(number, 0.0) > time.monotonic():
            raise unknown_schema(number)
        schema = self._asked(number)
        if schema is None:
            if len(self._unknown) >= MOST_UNKNOWN:
                self._unknown.clear()
            self._unknown[number] = time.monotonic() + FORGET_SECONDS
            raise unknown_schema(number)
        made = self._known[number] = self._writer_schema(schema)
        return made

    def close(self) -> None:
        if self._client is not None:
            self._client.__exit__(None, None, None)
            self._client = None

    def _asked(self, number: int) -> Schema | None:
        """The schema of this id; None where the registry says that there is none."""
        until, wait = time.monotonic() + self._patience, 0.2
        while True:
            try:
                if self._client is None:
                    self._client = self._address.client()
                return self._client.get_schema(number)
            except SchemaRegistryError as error:
                if error.error_code == _UNKNOWN_SCHEMA:
                    return None
                failure = _problem(error)
                # Other answers will not change by asking again: a wrong address, a wrong password.
                if error.http_status_code < 500 and error.http_status_code != 429:
                    raise RegistryError(f"{self._address.url}: schema {number}: {failure}") from None
            except OptionError:
                raise
            except Exception as error:  # those of its transport
                failure = _problem(error)
            if time.monotonic() + wait > until:
                raise RegistryError(
                    f"{self._address.url}: schema {number} cannot be had for {self._patience:g} s: {failure}"
                )
            _log.warning("%s: schema %d cannot be had, trying again: %s", self._address.url, number, failure)
            time.sleep(wait)
            wait = min(2 * wait, 10.0)

    def _writer_schema(self, schema: Schema) -> WriterSchema:
        if schema.schema_type not in (None, "AVRO"):
            return _unusable(f"it is of type {schema.schema_type}")
        named: dict[str, Any] = {}
        self._name_references(schema, named, 0)
        return WriterSchema(schema.schema_str or "", named)

    def _name_references(self, schema: Schema, named: dict[str, Any], depth: int) -> None:
        for reference in schema.references or ():
            assert self._client is not None
            if reference.name in named or depth > 20 or reference.subject is None or reference.version is None:
                continue
            other = self._client.get_version(reference.subject, reference.version).schema
            if other is not None:
                self._name_references(other, named, depth + 1)
                parse_schema(json.loads(other.schema_str or ""), named_schemas=named, expand=True)


def _unusable(problem: str) -> WriterSchema:
    made = WriterSchema('"null"')
    made.problem = problem
    return made


def check(address: RegistryAddress) -> None:
    """Raises RegistryError when it does not answer as a registry does, and OptionError for its settings."""
    with address.client() as client:
        _said(address, "its subjects", client.get_subjects)


def register(address: RegistryAddress, topics: Iterable[str], prefix: str = "") -> dict[str, int]:
    """The ids of our schemas by topic: looked up, or registered where `address` says so. Raises RegistryError.

    Args:
      address: where.
      topics: result topics.
      prefix: before their names, and so before those of their subjects.
    """
    found: dict[str, int] = {}
    missing: list[str] = []
    with address.client() as client:
        for topic in topics:
            subject = subject_of(prefix + topic)
            schema = Schema(json.dumps(json.loads(schema_text(subject_of(topic)))), "AVRO")
            try:
                registered = _said(address, subject, lambda: client.lookup_schema(subject, schema))  # noqa: B023
                found[topic] = _id(registered)
            except _MissingError:
                if address.registration == "look_up":
                    missing.append(subject)
                    continue
                found[topic] = _said(address, subject, lambda: client.register_schema(subject, schema))  # noqa: B023
                _log.info("Registered %s as schema %d.", subject, found[topic])
    if missing:
        raise RegistryError(
            f"{address.url}: our schema is not registered for {', '.join(missing)}."
            " --schema_registration=register does that at start, as does `python -m ami_beam.schemas register`"
        )
    return found


def all_versions(address: RegistryAddress, topics: Iterable[str], prefix: str = "") -> dict[int, str]:
    """Every schema that the topics' values were ever written with, by id: for reading back what an older run wrote."""
    found: dict[int, str] = {}
    with address.client() as client:
        for topic in topics:
            subject = subject_of(prefix + topic)
            try:
                versions = _said(address, subject, lambda: client.get_versions(subject))  # noqa: B023
            except _MissingError:
                continue
            for version in versions:
                each = _said(address, subject, lambda: client.get_version(subject, version))  # noqa: B023
                if each.schema is not None:
                    found[_id(each)] = each.schema.schema_str or ""
    return found


class _MissingError(RegistryError):
    """There is no such schema or subject."""


def _id(registered: RegisteredSchema) -> int:
    assert registered.schema_id is not None
    return registered.schema_id


def _said(address: RegistryAddress, what: str, ask: Callable[[], Answer]) -> Answer:
    try:
        return ask()
    except SchemaRegistryError as error:
        kind = _MissingError if error.error_code in (_UNKNOWN_SCHEMA, *_UNKNOWN_SUBJECT) else RegistryError
        raise kind(f"{address.url}: {what}: {_problem(error)}") from None
    except Exception as error:  # those of its transport
        raise RegistryError(f"{address.url}: {what}: {_problem(error)}") from None


def _problem(error: Exception) -> str:
    if isinstance(error, SchemaRegistryError):
        hint = {401: "; is there a login in --schema_registry_config_file?", 404: "; is the address right?"}
        return f"{error.error_message} (HTTP {error.http_status_code}){hint.get(error.http_status_code, '')}"
    return f"{type(error).__name__}: {error}"
