"""Confluent's client against a real registry: registering, looking up, refusals, outages."""

from __future__ import annotations

import base64
import json
import pickle
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from confluent_kafka.schema_registry import ConfigCompatibilityLevel, Schema, SchemaReference, ServerConfig

from ami_beam.codecs.dead_letter_reasons import Reason, Rejection
from ami_beam.io.schema_registry import RegistryAddress, RegistryError, RegistrySchemas, all_versions, check, register
from ami_beam.local.process import free_ports
from ami_beam.local.schema_registry import SchemaRegistry
from ami_beam.options import OptionError, validate
from ami_beam.schemas import __main__ as command
from ami_beam.schemas import result_topics, schema_text, subject_of

pytestmark = pytest.mark.processes
BASELINE = Path(__file__).parent / "avro_baseline"
SECRET = "s3cret"


def address(registry: SchemaRegistry, registration: str = "look_up") -> RegistryAddress:
    return RegistryAddress(registry.url, None, "register" if registration == "register" else "look_up")


def test_nothing_is_registered_unless_asked_for(schema_registry: SchemaRegistry) -> None:
    with pytest.raises(
        RegistryError, match=r"not registered for none\.ami\.alarms-value.*--schema_registration=register"
    ):
        register(address(schema_registry), ["ami.alarms"], "none.")
    with address(schema_registry).client() as client:
        assert "none.ami.alarms-value" not in client.get_subjects()


def test_all_schemas_are_registered_once(schema_registry: SchemaRegistry) -> None:
    first = register(address(schema_registry, "register"), result_topics(), "once.")
    assert set(first) == set(result_topics())
    assert register(address(schema_registry), result_topics(), "once.") == first
    for topic, number in first.items():
        written = all_versions(address(schema_registry), [topic], "once.")
        assert {number: json.loads(text) for number, text in written.items()} == {
            number: json.loads(schema_text(subject_of(topic)))
        }
    assert all_versions(address(schema_registry), ["no.such.topic"]) == {}


def test_the_command_registers(schema_registry: SchemaRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["register", "ami.alarms", f"--schema_registry={schema_registry.url}", "--output_prefix=command."]
    assert command.main(arguments) == 0
    assert "command.ami.alarms-value: schema " in capsys.readouterr().out
    assert command.main(["register"]) == 2
    assert "--schema_registry: is missing" in capsys.readouterr().err


@pytest.mark.parametrize("topic", result_topics())
def test_the_registry_finds_this_version_compatible_with_the_first(schema_registry: SchemaRegistry, topic: str) -> None:
    subject = f"first.{subject_of(topic)}"
    first = (BASELINE / f"{subject_of(topic)}.avsc").read_text()
    with address(schema_registry).client() as client:
        client.register_schema(subject, Schema(first, "AVRO"))
        client.set_config(subject, ServerConfig(compatibility=ConfigCompatibilityLevel.FULL_TRANSITIVE))
    assert topic in register(address(schema_registry, "register"), [topic], "first.")


def test_a_schema_that_does_not_fit_is_refused_by_name(schema_registry: SchemaRegistry) -> None:
    subject = "other.ami.alarms-value"
    other = {"type": "record", "name": "Alarms", "namespace": "ami", "fields": [{"name": "alarm_id", "type": "long"}]}
    with address(schema_registry).client() as client:
        client.register_schema(subject, Schema(json.dumps(other), "AVRO"))
        client.set_config(subject, ServerConfig(compatibility=ConfigCompatibilityLevel.BACKWARD))
    with pytest.raises(RegistryError, match=r"other\.ami\.alarms-value.*409"):
        register(address(schema_registry, "register"), ["ami.alarms"], "other.")


def test_schemas_are_fetched_by_id_once(schema_registry: SchemaRegistry) -> None:
    with address(schema_registry).client() as client:
        part = Schema('{"type":"enum","name":"Kind","namespace":"ref","symbols":["A","B"]}', "AVRO")
        client.register_schema("ref.kind", part)
        text = '{"type":"record","name":"Whole","namespace":"ref","fields":[{"name":"kind","type":"ref.Kind"}]}'
        number = client.register_schema("ref.whole", Schema(text, "AVRO", [SchemaReference("ref.Kind", "ref.kind", 1)]))
    schemas = pickle.loads(pickle.dumps(RegistrySchemas(address(schema_registry), patience=2)))
    found = schemas.schema(number)
    assert found.problem is None
    assert found.fields_of(b"\0\0\0\0\0\2") == {"kind": "B"}
    schema_registry.freeze()
    try:
        assert schemas.schema(number) is found
    finally:
        schema_registry.thaw()
    schemas.close()


def test_an_id_that_was_never_given_is_a_dead_letters_reason(schema_registry: SchemaRegistry) -> None:
    schemas = RegistrySchemas(address(schema_registry))
    for number in (2_000_000, 2_000_000, 2**32 - 1):
        with pytest.raises(Rejection) as rejected:
            schemas.schema(number)
        assert rejected.value.reason is Reason.AVRO_UNKNOWN_SCHEMA
    schemas.close()


def test_a_schema_of_another_language_refuses_its_records(schema_registry: SchemaRegistry) -> None:
    with address(schema_registry).client() as client:
        number = client.register_schema(
            "json", Schema('{"$schema":"http://json-schema.org/draft-07/schema#","type":"object"}', "JSON")
        )
    schemas = RegistrySchemas(address(schema_registry))
    assert schemas.schema(number).problem == "it is of type JSON"
    schemas.close()


def test_a_registry_that_is_away_and_comes_back_loses_nothing(schema_registry: SchemaRegistry) -> None:
    (number,) = register(address(schema_registry, "register"), ["ami.alarms"], "away.").values()
    config = {"timeout": 1, "max.retries": 0}
    schemas = RegistrySchemas(_configured(schema_registry.url, config), patience=60)
    schema_registry.freeze()
    threading.Timer(3, schema_registry.thaw).start()
    assert schemas.schema(number).problem is None
    schemas.close()


def _configured(url: str, config: dict[str, object]) -> RegistryAddress:
    path = Path(_FOLDER[0]) / "registry.json"
    path.write_text(json.dumps(config))
    return RegistryAddress(url, str(path))


_FOLDER: list[str] = []


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> Iterator[None]:
    _FOLDER[:] = [str(tmp_path)]
    yield
    _FOLDER.clear()


def test_a_registry_that_stays_away_fails_and_says_so() -> None:
    (port,) = free_ports(1)
    away = _configured(f"http://127.0.0.1:{port}", {"max.retries": 0})
    with pytest.raises(RegistryError, match=rf"127\.0\.0\.1:{port}.*schema 5 cannot be had for 1 s"):
        RegistrySchemas(away, patience=1).schema(5)
    with pytest.raises(RegistryError, match="ConnectError"):
        check(away)


def test_a_wrong_address_is_no_dead_letter(schema_registry: SchemaRegistry) -> None:
    wrong = RegistryAddress(schema_registry.url.rsplit("/", 1)[0] + "/nothing")
    with pytest.raises(RegistryError, match="is the address right"):
        RegistrySchemas(wrong).schema(1)
    with pytest.raises(RegistryError, match="is the address right"):
        check(wrong)


class _Guard(BaseHTTPRequestHandler):
    """Lets through who gives the password: Apicurio knows none without a server for logins."""

    target = ""

    def do_GET(self) -> None:
        given = self.headers.get("Authorization")
        if given != "Basic " + base64.b64encode(f"ami:{SECRET}".encode()).decode():
            self.send_error(401)
            return
        try:
            with urllib.request.urlopen(self.target + self.path, timeout=10) as answer:
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def guarded(schema_registry: SchemaRegistry) -> Iterator[str]:
    handler = type("Guard", (_Guard,), {"target": schema_registry.url})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_login_comes_from_a_file_and_is_nowhere_else(guarded: str, tmp_path: Path) -> None:
    path = tmp_path / "registry.properties"
    path.write_text(f"basic.auth.credentials.source=USER_INFO\nbasic.auth.user.info=ami:{SECRET}\n")
    counts = tmp_path / "counts.csv"
    counts.write_text("transformer_id,total_meters\nT1,1\n")
    _, plan = validate(
        [
            "--bootstrap_servers=localhost:1", f"--meter_counts={counts}", "--reads_format=avro",
            f"--schema_registry={guarded}", f"--schema_registry_config_file={path}",
        ]
    )  # fmt: skip
    registry = plan.formats.registry
    assert registry is not None
    check(registry)
    for shown in (repr(plan), json.dumps(plan.redacted(), default=str), repr(pickle.dumps(plan.formats.inputs()))):
        assert SECRET not in shown
    with pytest.raises(RegistryError, match="login") as refused:
        check(RegistryAddress(guarded))
    assert SECRET not in str(refused.value)


def test_settings_that_the_client_does_not_take_are_named_without_their_values(tmp_path: Path) -> None:
    path = tmp_path / "registry.properties"
    path.write_text(f"basic.auth.user.inf=ami:{SECRET}\n")
    with pytest.raises(OptionError, match=r"basic\.auth\.user\.inf\b") as wrong:
        RegistryAddress("http://127.0.0.1:1", str(path)).client()
    assert SECRET not in str(wrong.value)
