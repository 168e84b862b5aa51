"""Java's client settings for librdkafka, and what of them a job's graph may hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from ami_beam.io.librdkafka import SettingError, librdkafka
from ami_beam.kafka_config import config_warnings, for_graph, resolved
from ami_beam.options import OptionError

SCRAM = 'org.apache.kafka.common.security.scram.ScramLoginModule required username="ami" password="a\\"b\\\\c";'
LOGIN = {"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512", "sasl.jaas.config": SCRAM}


def made(config: dict[str, str]) -> dict[str, object]:
    return {name: value for name, value in librdkafka(config).items() if name != "log_level"}


def test_a_login() -> None:
    assert made(LOGIN) == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "ami",
        "sasl.password": 'a"b\\c',
    }


@pytest.mark.parametrize("quoted", ["username='ami' password='p w'", "username=ami password='p w'"])
def test_other_quotes_of_jaas(quoted: str) -> None:
    plain = f"org.apache.kafka.common.security.plain.PlainLoginModule required {quoted};"
    config = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.jaas.config": plain}
    assert made(config)["sasl.username"] == "ami"
    assert made(config)["sasl.password"] == "p w"


def test_stores_in_pem_and_pkcs12() -> None:
    trust = {"ssl.truststore.type": "PEM", "ssl.truststore.location": "ca.pem"}
    pem = {"ssl.keystore.type": "PEM", "ssl.keystore.location": "me.pem", "ssl.key.password": "k"}
    assert made({"security.protocol": "SSL", **trust, **pem}) == {
        "security.protocol": "SSL",
        "ssl.ca.location": "ca.pem",
        "ssl.certificate.location": "me.pem",
        "ssl.key.location": "me.pem",
        "ssl.key.password": "k",
    }
    texts = {"ssl.keystore.type": "PEM", "ssl.keystore.key": "K", "ssl.keystore.certificate.chain": "C"}
    assert made(texts) == {"ssl.key.pem": "K", "ssl.certificate.pem": "C"}
    assert made({"ssl.truststore.type": "PEM", "ssl.truststore.certificates": "T"}) == {"ssl.ca.pem": "T"}
    p12 = {"ssl.keystore.type": "PKCS12", "ssl.keystore.location": "me.p12", "ssl.keystore.password": "s"}
    assert made(p12) == {"ssl.keystore.location": "me.p12", "ssl.keystore.password": "s"}


def test_a_host_is_checked_unless_java_would_not() -> None:
    assert made({"ssl.endpoint.identification.algorithm": ""}) == {"ssl.endpoint.identification.algorithm": "none"}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"ssl.truststore.location": "t.jks"}, "ssl.truststore.type=JKS cannot be used"),
        ({"ssl.truststore.location": "t", "ssl.truststore.type": "PKCS12"}, "ssl.truststore.type=PKCS12 cannot"),
        ({"ssl.truststore.password": "hunter2"}, "ssl.truststore.password cannot be used"),
        ({"ssl.keystore.location": "k.jks"}, "ssl.keystore.type=JKS cannot be used"),
        ({"ssl.ca.location": "ca.pem"}, "write ssl.truststore.type=PEM and ssl.truststore.location"),
        ({"sasl.username": "hunter2"}, "write sasl.jaas.config"),
        ({"ssl.cipher.suites": "x"}, "ssl.cipher.suites cannot be used"),
        ({"ssl.enabled.protocols": "TLSv1.3"}, "ssl.enabled.protocols can only be"),
        ({"security.protocol": "SASL_SSL"}, "sasl.mechanism must be one of"),
        ({"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN"}, "sasl.jaas.config is missing"),
        ({**LOGIN, "sasl.mechanism": "PLAIN"}, "sasl.jaas.config does not fit sasl.mechanism=PLAIN"),
        ({**LOGIN, "sasl.mechanism": "GSSAPI"}, "sasl.mechanism must be one of"),
        ({**LOGIN, "sasl.mechanism": "OAUTHBEARER"}, "sasl.mechanism=OAUTHBEARER can only be Google's"),
        ({"sasl.jaas.config": "${env:AMI_NOT_THERE}"}, "no environment variable AMI_NOT_THERE"),
        ({"sasl.jaas.config": "${file:/nowhere/x:sasl.jaas.config}"}, "every process of the job needs this file"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(config: dict[str, str], said: str) -> None:
    with pytest.raises(SettingError) as refused:
        librdkafka(config)
    assert said in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("kafka_io", ["native", "beam"])
def test_the_graph_holds_references_which_give_the_file_as_it_is_now(tmp_path: Path, kafka_io: str) -> None:
    path = tmp_path / "client.properties"
    path.write_text("security.protocol=SSL\nssl.key.password=hunter1\n")
    config = for_graph({"client.id": "line"}, str(path), kafka_io)
    assert "hunter1" not in str(config)
    path.write_text("security.protocol=SSL\nssl.key.password=hunter2\n")
    assert resolved(config) == {"security.protocol": "SSL", "ssl.key.password": "hunter2", "client.id": "line"}
    assert ("config.providers" in config) == (kafka_io == "beam")


def test_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMI_TEST_JAAS", SCRAM)
    assert made({**LOGIN, "sasl.jaas.config": "${env:AMI_TEST_JAAS}"}) == made(LOGIN)


def test_beams_connector_cannot_read_secrets_from_json(tmp_path: Path) -> None:
    path = tmp_path / "client.json"
    path.write_text('{"ssl.key.password": "hunter2"}')
    assert "hunter2" not in str(for_graph({}, str(path), "native"))
    with pytest.raises(OptionError, match=r"ssl\.key\.password would be stored in the job"):
        for_graph({}, str(path), "beam")


def test_a_secret_on_the_command_line_draws_a_warning() -> None:
    given = {"ssl.key.password": "hunter2", "sasl.jaas.config": "${env:JAAS}", "ssl.keystore.location": "x"}
    (warning,) = config_warnings(given, given, "native")
    assert warning.startswith("--kafka_config: ssl.key.password is a secret on the command line")
    assert "hunter2" not in warning
    (warning,) = config_warnings({}, {"fetch.min.bytes": "1", "client.id": "x"}, "native")
    assert warning == "Kafka setting fetch.min.bytes has no effect with --kafka_io=native"
