"""Options of a job on Dataflow: what is missing or cannot work is named, and the same job is not refused."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, WorkerOptions
from confluent_kafka.admin import AdminClient

from ami_beam.beam_options import OptionError
from ami_beam.io import google_kafka_login
from ami_beam.io.librdkafka import SettingError, librdkafka
from ami_beam.kafka_config import config_warnings, for_graph, resolved
from ami_beam.local import jars
from ami_beam.options import validate
from tests.google_cloud import ACCOUNT, BUCKET, PROJECT, TOKEN, GoogleCloud

COUNTS = f"gs://{BUCKET}/transformer_meter_count.csv"
JOB = {
    "--runner": "DataflowRunner",
    "--project": PROJECT,
    "--region": "europe-west4",
    "--temp_location": f"gs://{BUCKET}/temp",
    "--sdk_container_image": "europe-west4-docker.pkg.dev/p/ami-beam/ami-beam:1",
    "--job_name": "ami-beam",
    "--max_num_workers": "4",
    "--bootstrap_servers": "broker:9092",
    "--meter_counts": COUNTS,
    "--shards": "256",
}
OAUTH = {
    "security.protocol": "SASL_SSL",
    "sasl.mechanism": "OAUTHBEARER",
    "sasl.login.callback.handler.class": google_kafka_login.HANDLER,
    "sasl.jaas.config": "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;",
}
SECRET = f"projects/{PROJECT}/secrets/ami-beam-kafka/versions/latest"


@pytest.fixture(scope="module", autouse=True)
def cloud() -> Iterator[GoogleCloud]:
    with GoogleCloud() as running, pytest.MonkeyPatch.context() as patch:
        running.take_over(patch)
        running.objects["transformer_meter_count.csv"] = b"transformer_id,total_meters\nT1,2\n"
        yield running
        assert running.unknown == []


_RESOLVED = """
import java.util.*;
import org.apache.kafka.common.config.*;

public class Resolved {
  public static void main(String[] arguments) {
    Map<String, Object> config = new HashMap<>();
    PUTS
    ConfigDef known = new ConfigDef();
    for (String name : List.of("security.protocol", "sasl.jaas.config")) {
      known.define(name, ConfigDef.Type.STRING, ConfigDef.Importance.HIGH, "");
    }
    AbstractConfig made = new AbstractConfig(known, config, false);
    System.out.println(made.getString("security.protocol"));
    System.out.println(made.getString("sasl.jaas.config"));
    for (String other : List.of(":sasl.password}", "0:sasl.password}")) {
      config.put("sasl.jaas.config", "${secretmanager:projects/utility-ami/secrets/ami-beam-kafka/versions/"
          + (other.startsWith("0") ? "" : "latest") + other);
      try {
        System.out.println(new AbstractConfig(known, config, false).getString("sasl.jaas.config"));
      } catch (ConfigException error) {
        System.out.println(error.getMessage());
      }
    }
  }
}
"""
"""A Kafka client's way from settings to values, told on standard output."""


def words(*more: str, **without: None) -> list[str]:
    given = {name: value for name, value in JOB.items() if name.removeprefix("--") not in without}
    return [*(f"{name}={value}" for name, value in given.items()), *more]


def refusal(*more: str, **without: None) -> str:
    with pytest.raises(OptionError) as caught:
        validate(words(*more, **without))
    return str(caught.value)


def test_a_job_that_can_work_is_taken() -> None:
    _, plan = validate(words("--subnetwork=regions/europe-west4/subnetworks/ami", "--no_use_public_ips"))
    assert (plan.runner, plan.kafka_io, plan.on_stop, plan.bounded) == ("DataflowRunner", "beam", "leave", False)
    assert plan.warnings == ()
    options = PipelineOptions(list(plan.pipeline_args))
    assert options.view_as(GoogleCloudOptions).project == PROJECT
    assert options.view_as(WorkerOptions).use_public_ips is False


@pytest.mark.parametrize("name", ["project", "region", "temp_location", "sdk_container_image"])
def test_what_dataflow_needs_is_named_with_an_example(name: str) -> None:
    text = refusal(**{name: None})
    assert text.startswith(f"--{name}: is missing")
    assert f"Example: --{name}=" in text


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("--temp_location=/tmp", "is no place in Cloud Storage"),
        ("--staging_location=staging", "is no place in Cloud Storage"),
        ("--job_name=Ami", "is no name for a job"),
        ("--subnetwork=ami", "is no subnetwork"),
        ("--subnetwork=regions/us-east1/subnetworks/ami", "is not in --region=europe-west4"),
        ("--num_workers=5", "is more than --max_num_workers=4"),
        ("--meter_counts=counts.csv", "is a local path, which workers do not have"),
        ("--producers=producers.csv", "is a local path, which workers do not have"),
        ("--kafka_config_file=client.properties", "is a file, which workers do not have"),
        (f"--kafka_config_file=gs://{BUCKET}/client.properties", "or which others can read"),
        ("--customer_key_file=/etc/customer.key", "is a file, which workers do not have"),
        ("--kafka_io=native", "not tried there"),
        ("--on_stop=savepoint", "Dataflow has no savepoints"),
        ("--return_when=checkpointed", "nobody is told of Dataflow's checkpoints"),
    ],
)
def test_what_cannot_work_names_itself_what_is_allowed_and_an_example(option: str, problem: str) -> None:
    text = refusal(option)
    assert text.startswith(f"{option}: ")
    assert problem in text
    assert "Allowed: " in text
    assert "Example: --" in text


def test_an_update_needs_the_name_and_the_shards_of_the_running_job() -> None:
    assert refusal("--update", shards=None).startswith("--shards=auto: could be another number")
    assert refusal("--update", job_name=None).startswith("--job_name: is missing; --update needs")
    assert validate(words("--update"))[1].warnings == ()


def test_what_is_allowed_and_unwise_is_warned_of() -> None:
    warnings = validate(words("--no_use_public_ips", max_num_workers=None, shards=None, job_name=None))[1].warnings
    said = " ".join(warnings)
    for option in ("--max_num_workers", "--shards=auto", "--job_name", "--no_use_public_ips without --subnetwork"):
        assert option in said


def test_a_launcher_gives_words_as_one_text_and_options_that_are_new() -> None:
    text = "--kafka_config=client.id=ami 'sasl.jaas.config=Login required;' metadata.max.age.ms=60000"
    launched = f"--template_location=gs://{BUCKET}/job_object"
    _, plan = validate(words(text, launched, "--a_new_option=1"))
    assert plan.kafka_config["sasl.jaas.config"] == "Login required;"
    assert plan.kafka_config["client.id"] == "ami"
    assert any("--a_new_option is passed on" in warning for warning in plan.warnings)
    assert "quotation mark" in refusal("--kafka_config=client.id='ami", launched)
    # Without a launcher nobody has looked at names before.
    assert refusal("--a_new_option=1").startswith("--a_new_option: no such option")


class TestSecrets:
    def test_the_graph_has_references_and_processes_the_values(self, cloud: GoogleCloud) -> None:
        cloud.secrets[SECRET] = b"ssl.key.password=pw-UNMISTAKABLE\n"
        path = f"secretmanager://{SECRET.removesuffix('/versions/latest')}"
        graph = for_graph({}, path, "beam")
        assert graph["ssl.key.password"] == f"${{secretmanager:{SECRET}:ssl.key.password}}"
        assert graph["config.providers.secretmanager.class"] == "amibeam.SecretManagerConfigProvider"
        assert "UNMISTAKABLE" not in repr(graph)
        assert resolved(graph) == {"ssl.key.password": "pw-UNMISTAKABLE"}
        assert "secretmanager" in cloud.authorized
        _, plan = validate(words(f"--kafka_config_file={path}"))
        assert plan.kafka_client["ssl.key.password"] == graph["ssl.key.password"]

    def test_a_key_of_customers_may_be_a_secret(self, cloud: GoogleCloud) -> None:
        cloud.secrets[SECRET] = b"0123456789abcdef\n"
        path = f"secretmanager://{SECRET}"
        customers = ("--also_publish=customer_consumption", f"--customer_key_file={path}")
        assert validate(words(*customers))[0].customer_key_file == path
        cloud.secrets[SECRET] = b"guess me"
        assert "holds 8 bytes" in refusal(*customers)
        assert "cannot be read (NotFound)" in refusal(customers[0], f"--customer_key_file={path[:-6]}7")

    @pytest.mark.skipif(shutil.which("javac") is None, reason="no JDK here")
    def test_javas_clients_resolve_the_references_too(self, cloud: GoogleCloud, tmp_path: Path) -> None:
        cloud.secrets[SECRET] = (
            b"security.protocol=SASL_SSL\n"
            b'sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username="ami" \\\n'
            b'  password="pw-UNMISTAKABLE";\n'
        )
        config = for_graph({}, f"secretmanager://{SECRET}", "beam")
        config |= {f"config.providers.secretmanager.param.{name}": cloud.url for name in ("endpoint", "metadata")}
        puts = "\n".join(f"config.put({json.dumps(name)}, {json.dumps(value)});" for name, value in config.items())
        (tmp_path / "Resolved.java").write_text(_RESOLVED.replace("PUTS", puts))
        class_path = ":".join(map(str, [jars.PATCHES, *jars.fetch("kafka_io")]))
        command = ["java", "-cp", class_path, str(tmp_path / "Resolved.java")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        login = resolved(for_graph({}, f"secretmanager://{SECRET}", "beam"))["sasl.jaas.config"]
        assert done.stdout.splitlines()[:2] == ["SASL_SSL", login]
        assert "has no sasl.password" in done.stdout
        assert "answers 404" in done.stdout

    def test_a_name_that_is_none_is_said(self) -> None:
        text = refusal("--kafka_config_file=secretmanager://ami-beam-kafka")
        assert "is no name of a secret; write secretmanager://projects/PROJECT/secrets/" in text


class TestGoogleLogin:
    def test_the_token_has_the_form_of_the_service(self) -> None:
        token, expires = google_kafka_login.token("")
        parts = [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split(".")]
        assert json.loads(parts[0]) == {"typ": "JWT", "alg": "GOOG_OAUTH2_TOKEN"}
        claims = json.loads(parts[1])
        assert (claims["sub"], claims["scope"], claims["exp"]) == (ACCOUNT, "kafka", int(expires))
        assert parts[2].decode() == TOKEN

    def test_javas_settings_give_the_same_login_to_librdkafka(self) -> None:
        made = librdkafka(OAUTH)
        assert (made["sasl.mechanism"], made["oauth_cb"]) == ("OAUTHBEARER", google_kafka_login.token)
        with pytest.raises(SettingError, match="can only be Google's"):
            librdkafka(OAUTH | {"sasl.login.callback.handler.class": "other.Handler"})

    def test_it_holds_no_secret_to_warn_of(self) -> None:
        assert config_warnings(OAUTH, OAUTH, "beam") == []
        login = "org.apache.kafka.common.security.plain.PlainLoginModule required password=pw;"
        assert len(config_warnings({"sasl.jaas.config": login}, {}, "beam")) == 1
        _, plan = validate(words("--kafka_config", *(f"{name}={value}" for name, value in OAUTH.items())))
        assert plan.warnings == ()
        assert plan.kafka_client["sasl.jaas.config"] == OAUTH["sasl.jaas.config"]

    def test_a_client_asks_for_a_token(self) -> None:
        asked = []

        def token(config: str) -> tuple[str, float]:
            asked.append(google_kafka_login.token(config))
            return asked[-1]

        client = AdminClient({**librdkafka(OAUTH), "bootstrap.servers": "127.0.0.1:1", "oauth_cb": token})
        for _ in range(100):
            client.poll(0.1)
            if asked:
                break
        assert len(asked) == 1
