"""The command line: what it becomes, and that a wrong one says what is wrong, what is allowed and what would work."""

import logging
import pickle
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from ami_beam.beam_options import OptionError
from ami_beam.counts_shrink import ShrinkRule
from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND, parse_instant
from ami_beam.io.librdkafka import librdkafka
from ami_beam.io.meter_counts_table import CountsTable
from ami_beam.io.meter_counts_topic import CountsTopic
from ami_beam.kafka_config import REDACTED, properties, redacted
from ami_beam.options import AmiOptions, help_text, kafka_io_of, validate
from ami_beam.postgresql.connection import Database
from ami_beam.run import followed_counts
from ami_beam.settings import Settings

LIVE = ("--bootstrap_servers=broker:9092",)
REPLAY = ("--source=files", "--sink=files")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the default inputs, so that a bare command line is valid."""
    (tmp_path / "transformer_meter_count.csv").write_text("transformer_id,total_meters\nT1,2\n")
    for name in ("reads.jsonl.gz", "events.jsonl.gz"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_announced_outages_and_work_are_read_where_they_are_named(folder: Path) -> None:
    _, plan = validate(LIVE)
    assert (plan.oms_outages, plan.work, plan.announced_topics) == (None, None, {})
    settings, plan = validate((*LIVE, "--oms_outages=ami.oms.outages", "--work=crew.work"))
    assert plan.announced_topics == {"ami.oms.outages": "ami.oms.outages", "crew.work": "crew.work"}
    assert "source=oms_outages,work" in settings.state_label()
    (folder / "o.jsonl").write_bytes(b"")
    settings, plan = validate((*REPLAY, "--oms_outages=o.jsonl"))
    assert (plan.announced_topics, plan.work_topic) == ({"ami.oms.outages": "o.jsonl"}, None)
    assert refusal(*REPLAY, "--work=none.jsonl").startswith("--work=none.jsonl: no such file")
    assert refusal(*LIVE, "--work=a b").startswith("--work=a b: is not a topic name")
    assert refusal(*LIVE, "--work=one", "--oms_outages=one").startswith("--work=one: is what --oms_outages reads")


def refusal(*argv: str) -> str:
    with pytest.raises(OptionError) as caught:
        validate(argv)
    return str(caught.value)


def test_every_option_has_a_default_but_the_broker() -> None:
    settings, plan = validate(LIVE)
    assert settings == Settings(live=True)
    assert (plan.source, plan.sinks, plan.runner, plan.start) == ("kafka", ("kafka",), "FlinkRunner", "latest")
    assert (plan.reads, plan.events) == ("ami.headend.reads", "ami.headend.events")
    assert plan.meter_counts_refresh == 60 * MICROS_PER_SECOND
    assert (plan.bootstrap_servers, plan.bounded, plan.warnings) == ("broker:9092", False, ())
    assert "--bootstrap_servers: is missing" in refusal()
    assert "--bootstrap_servers: is missing" in refusal("--source=files")


def test_several_sinks_stand_beside_each_other(folder: Path) -> None:
    database = "--postgresql=postgresql://ami_writer@db1/ami"
    settings, plan = validate((*LIVE, "--sink=postgresql,kafka", database))
    assert (plan.sinks, plan.runner) == (("kafka", "postgresql"), "FlinkRunner")
    assert plan.postgresql == Database("postgresql://ami_writer@db1/ami", None, "ami")
    # It adds steps to the graph, which a savepoint of before does not fit.
    assert settings.state_label() != validate(LIVE)[0].state_label()
    _, plan = validate(("--source=files", "--sink=files,postgresql", database, "--postgresql_schema=meters"))
    assert (plan.runner, plan.bootstrap_servers, plan.warnings) == ("DirectRunner", None, ())
    assert plan.postgresql is not None
    assert plan.postgresql.schema == "meters"
    (warning,) = validate((*LIVE, "--sink=postgresql", database))[1].warnings
    assert "may stay RAISED" in warning
    (warning,) = validate((*LIVE, database))[1].warnings
    assert warning == "--postgresql has no effect without --sink=postgresql"
    assert "a topic never ends" in refusal(*LIVE, "--sink=files,postgresql", database)
    assert "--bootstrap_servers: is missing" in refusal("--source=files", "--sink=kafka,postgresql", database)


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("--postgresql=postgresql://ami:pw-UNMISTAKABLE@db1/ami", "holds the password"),
        ("--postgresql=host=db1 password=pw-UNMISTAKABLE", "holds the password"),
        ("--postgresql=host=db1 pw-UNMISTAKABLE", "is no connection string"),
        ("--postgresql=postgresql://db1?sslpassword=pw-UNMISTAKABLE", "holds the sslpassword"),
        ("--postgresql_config_file=wrong.properties", 'invalid connection option "pasword"'),
        ("--postgresql_config_file=none.properties", "cannot be read"),
        ("--postgresql_schema=pg_mine", "is no name for a schema"),
        ("--postgresql_schema=Ami", "is no name for a schema"),
    ],
)
def test_a_wrong_database_is_refused_without_its_secrets(folder: Path, option: str, problem: str) -> None:
    (folder / "wrong.properties").write_text("pasword=pw-UNMISTAKABLE\n")
    said = refusal("--source=files", "--sink=postgresql", option)
    assert said.startswith(option.partition("=")[0])
    assert problem in said
    assert "Example: --postgresql" in said
    assert "UNMISTAKABLE" not in said


def test_a_replay_needs_no_broker_and_no_flink() -> None:
    settings, plan = validate(REPLAY)
    assert settings == Settings(live=False)
    assert (plan.runner, plan.bootstrap_servers, plan.bounded) == ("DirectRunner", None, True)
    assert (plan.reads, plan.reads_topic) == ("reads.jsonl.gz", "ami.headend.reads")


def test_options_become_settings() -> None:
    argv = (
        "--window=30m --window_closed=left --collection_delay=1h --receipt_delay 8h --allowed_lateness=48h"
        " --late_gather=500ms --shards=7 --min_receipt_rate_pct=95.5 --nominal_voltage=120 --low_voltage_pct=95"
        " --high_voltage_pct=105 --plausible_voltage=50:300 --max_interval_kwh=20"
        " --alarm_on_windows=3 --alarm_off_windows=4 --min_missing_meters=5 --tamper_events=6 --silent_after=2d"
    )
    settings, _ = validate([*LIVE, *argv.split()])
    assert settings == Settings(
        window=30 * MICROS_PER_MINUTE,
        window_closed="left",
        collection_delay=MICROS_PER_HOUR,
        receipt_delay=8 * MICROS_PER_HOUR,
        allowed_lateness=48 * MICROS_PER_HOUR,
        late_gather=500_000,
        shards=7,
        min_receipt_rate_pct=95.5,
        nominal_voltage=120.0,
        low_voltage_pct=95.0,
        high_voltage_pct=105.0,
        plausible_voltage=(50.0, 300.0),
        max_interval_kwh=20.0,
        alarm_on_windows=3,
        alarm_off_windows=4,
        min_missing_meters=5,
        tamper_events=6,
        silent_after=48 * MICROS_PER_HOUR,
        source_silent=90 * MICROS_PER_MINUTE,
        live=True,
    )


def test_receipt_delay_is_the_collection_delay_unless_given() -> None:
    settings, _ = validate([*LIVE, "--collection_delay=1h"])
    assert settings.receipt_delay == MICROS_PER_HOUR


@pytest.mark.parametrize(
    ("option", "other"),
    [
        ("--window=30m", "--window=15m"),
        ("--window_closed=left", "--window_closed=right"),
        ("--collection_delay=6m", "--collection_delay=5m"),
        ("--receipt_delay=6m", "--receipt_delay=5m"),
        ("--allowed_lateness=25h", "--allowed_lateness=24h"),
        ("--shards=7", "--shards=1024"),
        ("--also_publish=feeder_summary", "--also_publish="),
        ("--also_publish=voltage_heatmap", "--also_publish=feeder_summary"),
        ("--also_publish=validated_reads --customer_id=keep", "--also_publish="),
    ],
)
def test_options_that_shape_state_are_in_the_state_label(option: str, other: str) -> None:
    labels = [validate([*LIVE, *options.split()])[0].state_label() for options in (option, other)]
    assert labels[0] != labels[1]


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("--window=17m", "does not divide a day"),
        ("--window=0s", "too short"),
        ("--silent_after=10m", "too short"),
        ("--silent_after=15d", "too long"),
        ("--window=15", "not a duration"),
        ("--window=1.5h", "not a duration"),
        ("--window=2d", "does not divide a day"),
        ("--window_closed=both", "neither"),
        ("--collection_delay=25h", "longer than --allowed_lateness"),
        ("--receipt_delay=25h", "longer than --allowed_lateness"),
        ("--receipt_delay=-5m", "not a duration"),
        ("--allowed_lateness=0h", "too short"),
        ("--allowed_lateness=99999999d", "century"),
        ("--late_gather=30m", "too long"),
        ("--late_gather=0s", "too short"),
        ("--meter_counts_refresh=500ms", "too short"),
        ("--min_receipt_rate_pct=101", "not a number in range"),
        ("--min_receipt_rate_pct=nan", "not a number in range"),
        ("--nominal_voltage=0", "not a number in range"),
        ("--nominal_voltage=1e3", "not a number in range"),
        ("--low_voltage_pct=110", "not below --high_voltage_pct"),
        ("--plausible_voltage=400:100", "not a range"),
        ("--plausible_voltage=100", "not a range"),
        ("--plausible_voltage=100:inf", "not a range"),
        ("--max_interval_kwh=0", "not a number in range"),
        ("--alarm_on_windows=0", "not a whole number"),
        ("--alarm_off_windows=1.5", "not a whole number"),
        ("--min_missing_meters=-1", "not a whole number"),
        ("--tamper_events=0", "not a whole number"),
        ("--producers=missing.csv", "cannot be read"),
        ("--shards=0", "not a whole number"),
        ("--shards=automatic", "not a whole number"),
        ("--shards=1.5", "not a whole number"),
        ("--shards=٧", "not a whole number"),
        ("--source=pubsub", "neither"),
        ("--sink=snowflake", "neither"),
        ("--sink=kafka,", "neither"),
        ("--runner=FlinkRuner", "did you mean FlinkRunner"),
        ("--start=yesterday", "not a timestamp"),
        ("--start=2026-03-03T00:00:00", "not a timestamp"),
        ("--bootstrap_servers=broker", "not HOST:PORT"),
        ("--bootstrap_servers=broker:99999", "not HOST:PORT"),
        ("--bootstrap_servers=a:1,,b:2", "not HOST:PORT"),
        ("--reads=exports/reads.jsonl", "not a topic name"),
        ("--meter_counts=missing.csv", "no such file"),
        ("--meter_counts=kafka:a b", "names no topic"),
        ("--meter_counts=kafka:", "names no topic"),
        ("--meter_counts=postgresql:a.b.c", "names no table"),
        ("--meter_counts_format=debezium", "is of a topic, and --meter_counts=transformer_meter_count.csv is none"),
        ("--meter_counts_format=avro", "is neither"),
        ("--meter_counts_max_shrink_pct=101", "not a number in range"),
        ("--also_publish=feeder_summary,feeders", "has feeders, which there is not"),
        ("--time_zone=america/chicago", "did you mean America/Chicago"),
        ("--time_zone=CST+6", "is no time zone"),
        ("--customer_id=hash", "is neither"),
        ("--billing_lateness=a month", "not a duration"),
    ],
)
def test_a_wrong_option_names_itself_its_value_what_is_allowed_and_an_example(option: str, problem: str) -> None:
    text = refusal(*LIVE, option)
    assert text.startswith(f"{option}: ")
    assert problem in text
    assert "Allowed: " in text
    assert "Example: --" in text


class TestPlacesOfMeterCounts:
    LOGIN = (
        "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.jaas.config="
        'org.apache.kafka.common.security.plain.PlainLoginModule required username="u" password="secret-17";\n'
    )

    @pytest.mark.parametrize("words", [LIVE, (*LIVE, "--kafka_io=beam"), (*LIVE, *REPLAY)])
    def test_the_graph_and_the_log_hold_no_secret_of_a_topic(self, folder: Path, words: tuple[str, ...]) -> None:
        (folder / "client.properties").write_text(self.LOGIN)
        words = (*words, "--kafka_config_file=client.properties", "--meter_counts=kafka:ami.meter.counts")
        settings, plan = validate(words)
        origin = followed_counts(settings, plan).origin
        assert isinstance(origin, CountsTopic)
        assert origin.topic == "ami.meter.counts"
        assert librdkafka(dict(origin.client))["sasl.password"] == "secret-17"
        for sent in (pickle.dumps(origin), repr(plan).encode(), repr(plan.redacted()).encode()):
            assert b"secret-17" not in sent
        assert plan.warnings == ()

    def test_a_table_has_the_connection_of_the_sink(self, folder: Path) -> None:
        (folder / "postgresql.properties").write_text("password=secret-17\n")
        words = [*LIVE, "--meter_counts=postgresql:gis.Counts", "--postgresql=host=db1 user=reader"]
        words.append("--postgresql_config_file=postgresql.properties")
        settings, plan = validate(words)
        origin = followed_counts(settings, plan).origin
        assert isinstance(origin, CountsTable)
        assert (origin.parts, plan.postgresql, plan.warnings) == (("gis", "Counts"), None, ())
        assert origin.database.parameters()["password"] == "secret-17"
        for sent in (pickle.dumps(origin), repr(plan).encode(), repr(plan.redacted()).encode()):
            assert b"secret-17" not in sent
        said = refusal(*words[:2], "--postgresql=host=db1 password=secret-17")
        assert "holds the password" in said
        assert "secret-17" not in said

    def test_a_replay_needs_a_broker_for_a_topic_only(self) -> None:
        words = (*REPLAY, "--meter_counts=kafka:counts", "--meter_counts_format=debezium")
        assert "a broker is needed for --meter_counts=kafka:counts" in refusal(*words)
        settings, plan = validate((*words, "--bootstrap_servers=b:1"))
        origin = followed_counts(settings, plan).origin
        assert isinstance(origin, CountsTopic)
        assert origin.format == "debezium"
        assert plan.warnings == ()

    def test_a_file_may_have_any_name(self, folder: Path) -> None:
        (folder / "kafka:counts").write_text("transformer_id,total_meters\nT1,2\n")
        settings, plan = validate([*LIVE, "--meter_counts=./kafka:counts"])
        assert followed_counts(settings, plan).load().payload
        assert plan.bootstrap_servers == "broker:9092"

    def test_what_may_shrink(self, folder: Path) -> None:
        _, plan = validate(LIVE)
        assert plan.meter_counts_shrink == ShrinkRule(20, None)
        _, plan = validate([*LIVE, "--meter_counts_max_shrink_pct=5.5", "--meter_counts_accepted=ids.txt"])
        assert plan.meter_counts_shrink == ShrinkRule(5.5, str(folder / "ids.txt"))
        _, plan = validate([*REPLAY, "--meter_counts_max_shrink_pct=5"])
        assert plan.warnings == (
            "--meter_counts_max_shrink_pct has no effect: a replay compares with nothing of before",
        )


CUSTOMERS = "--also_publish=customer_consumption"


def test_the_hash_of_customers_needs_a_key(tmp_path: Path) -> None:
    assert "is missing, and --customer_id=hmac needs it" in refusal(*LIVE, CUSTOMERS)
    key = tmp_path / "customer.key"
    assert "cannot be read: No such file" in refusal(*LIVE, CUSTOMERS, f"--customer_key_file={key}")
    key.write_text("guess me")
    said = refusal(*LIVE, CUSTOMERS, f"--customer_key_file={key}")
    assert "holds 8 bytes, which can be guessed" in said
    assert "guess me" not in said
    key.write_text("0123456789abcdef")
    settings, plan = validate([*LIVE, CUSTOMERS, f"--customer_key_file={key}"])
    assert settings.customer_key_file == str(key)
    assert "0123456789abcdef" not in repr((settings, plan))
    # Nobody asks for customers.
    assert validate(LIVE)[0].customer_key_file is None


def test_without_customers_nothing_can_be_added_up_by_them() -> None:
    assert "leaves nothing to add up by" in refusal(*LIVE, CUSTOMERS, "--customer_id=drop")
    assert validate([*LIVE, "--also_publish=validated_reads", "--customer_id=drop"])[0].customer_id == "drop"


def test_paths_of_a_replay_must_exist(folder: Path) -> None:
    assert refusal(*REPLAY, "--reads=nowhere.jsonl").startswith("--reads=nowhere.jsonl: no such file")
    assert refusal(*REPLAY, "--events=none-*.jsonl").startswith("--events=none-*.jsonl: no such file")
    (folder / "file").write_text("")
    assert refusal(*REPLAY, "--output=file/results").startswith("--output=file/results: ")
    assert validate([*REPLAY, "--output=new/deeper"])[1].output == "new/deeper"
    assert not (folder / "new").exists()


def test_files_need_a_source_that_ends() -> None:
    assert "a topic never ends" in refusal(*LIVE, "--source=kafka", "--sink=files")


@pytest.mark.parametrize("runner", ["DirectRunner", "direct", "apache_beam.runners.direct.direct_runner.DirectRunner"])
def test_direct_runner_cannot_read_kafka(runner: str) -> None:
    text = refusal(*LIVE, f"--runner={runner}")
    assert "--runner=" in text
    assert "KafkaIO" in text
    assert "Example: --runner=FlinkRunner" in text


def test_start_is_a_place_in_a_topic() -> None:
    assert validate([*LIVE, "--start=earliest"])[1].start == "earliest"
    assert validate([*LIVE, "--start=2026-03-03T01:00:00+01:00"])[1].start == parse_instant("2026-03-03T00:00:00Z")
    assert "always starts with its first record" in refusal(*REPLAY, "--start=2026-03-03T00:00:00Z")


@pytest.mark.parametrize(
    ("argument", "name", "near"),
    [
        ("--windw=15m", "--windw", "--window"),
        ("--collection-delay=15m", "--collection-delay", "--collection_delay"),
        ("--wind=15m", "--wind", "--window"),
        ("--paralelism=2", "--paralelism", "--parallelism"),
        ("--checkpoint_interval=1000", "--checkpoint_interval", "--checkpointing_interval"),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest_one(argument: str, name: str, near: str) -> None:
    text = refusal(*LIVE, argument)
    assert text.startswith(f"{name}: no such option; did you mean {near}. ")


def test_what_belongs_to_no_option_is_refused_without_its_value() -> None:
    text = refusal(*LIVE, "--kafka_config=a=b", "sasl.password=hunter2")
    assert "'sasl.password' belongs to no option" in text
    assert "hunter2" not in text
    assert refusal(*LIVE, "--window").startswith("--window: expected one argument")
    assert refusal(*LIVE, "--num_workers=many").startswith("--num_workers: ")


def test_beam_and_java_options_pass_through() -> None:
    ours = [*LIVE, "--window=1h"]
    theirs = ["--checkpointing_interval=10000", "--parallelism", "2", "--state_backend=rocksdb", "--object_reuse"]
    _, plan = validate([*ours, *theirs, "--max_bundle_time_millis=100", "--pass_to_runner", "new_option=1"])
    options = PipelineOptions(list(plan.pipeline_args)).get_all_options(drop_default=True, retain_unknown_options=True)
    expected = {
        "runner": "FlinkRunner",
        "parallelism": 2,
        "checkpointing_interval": "10000",
        "state_backend": "rocksdb",
    }
    # Beam's Java option has no second i; with it, it would be forwarded and have no effect
    expected |= {"max_bundle_time_mills": "100", "object_reuse": True, "new_option": "1", "window": "1h"}
    assert expected.items() <= options.items()
    assert "max_bundle_time_millis" not in options


def test_ours_and_beams_options_live_in_one_parser() -> None:
    options = PipelineOptions(["--bootstrap_servers=broker:9092", "--window=1h", "--output=there", "--streaming"])
    assert options.view_as(AmiOptions).bootstrap_servers == "broker:9092"
    assert options.view_as(AmiOptions).window == "1h"
    assert options.view_as(StandardOptions).streaming is True
    assert options.get_all_options()["output"] == "there"


def test_secrets_reach_neither_the_log_nor_the_runner(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    (folder / "client.properties").write_text("ssl.truststore.password = hunter1\nsecurity.protocol: SASL_SSL\n")
    secret = 'sasl.jaas.config=Module required username="ami" password="hunter2";'
    argv = [*LIVE, "--kafka_config", secret, "client.id=ami", "--kafka_config_file=client.properties"]
    _, plan = validate(argv)
    assert plan.kafka_config["ssl.truststore.password"] == "hunter1"
    assert plan.kafka_config["sasl.jaas.config"].endswith('password="hunter2";')
    shown = plan.redacted()
    assert shown["kafka_config"] == {
        "client.id": "ami",
        "sasl.jaas.config": REDACTED,
        "security.protocol": "SASL_SSL",
        "ssl.truststore.password": REDACTED,
    }
    handed_on = PipelineOptions(list(plan.pipeline_args)).to_runner_api()
    for place in (shown, repr(plan), plan.pipeline_args, handed_on, caplog.text):
        assert "hunter" not in str(place)


@pytest.mark.parametrize(
    "key", ["sasl.password", "SASL.JAAS.CONFIG", "client.secret", "auth.token", "ssl.keystore.key"]
)
def test_secret_keys_are_known_by_their_names(key: str) -> None:
    assert redacted({key: "hunter2", "client.id": "x"}) == {key: REDACTED, "client.id": "x"}


def test_kafka_config_from_the_command_line_goes_before_the_file(folder: Path) -> None:
    (folder / "client.json").write_text('{"client.id": "file", "fetch.min.bytes": 1, "bootstrap.servers": "b:1"}')
    _, plan = validate(["--kafka_config_file=client.json", "--kafka_config", "client.id=line"])
    assert plan.kafka_config == {"client.id": "line", "fetch.min.bytes": "1"}
    assert plan.bootstrap_servers == "b:1"


@pytest.mark.parametrize("content", ["password hunter2 = \\u12", '{"password": ["hunter2"]}', "=hunter2", "\\"])
def test_a_bad_kafka_config_file_is_refused_without_its_values(folder: Path, content: str) -> None:
    (folder / "bad").write_text(content)
    text = refusal(*LIVE, "--kafka_config_file=bad")
    assert text.startswith("--kafka_config_file=bad: ")
    assert "hunter2" not in text


@pytest.mark.parametrize("words", [["hunter2"], ["=hunter2"], ["a=hunter2", "a=b"], ["auto.offset.reset=hunter2"]])
def test_bad_kafka_config_is_refused_without_its_values(words: list[str]) -> None:
    text = refusal(*LIVE, "--kafka_config", *words)
    assert text.startswith("--kafka_config: ")
    assert "hunter2" not in text


def test_properties_as_java_reads_them() -> None:
    text = "# c\n! c\n\na=1\n b : 2 \nc 3\nd=x\\\n   y\ne\\ e=\\t\\u0041\\\\\nf=\ng==h\nlast"
    assert properties(text) == {
        "a": "1", "b": "2 ", "c": "3", "d": "xy", "e e": "\tA\\", "f": "", "g": "=h", "last": "",
    }  # fmt: skip


def test_what_is_hardly_meant_is_a_warning() -> None:
    warnings = validate([*LIVE, "--nominal_voltage=100", "--output=x", "--receipt_delay=1m"])[1].warnings
    assert [text.partition(" ")[0] for text in warnings] == ["LOW_VOLTAGE", "--receipt_delay", "--output"]


def test_help_shows_ours_with_an_explanation_apart_from_beams(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        validate(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text == help_text()
    ours, beams = text.split("\nBeam's options")
    for name in (
        "--bootstrap_servers",
        "--window",
        "--late_gather",
        "--shards",
        "--meter_counts_refresh",
        "--kafka_config",
    ):
        assert f"  {name} " in ours
    assert "--streaming" not in ours
    assert "--streaming" in beams
    assert "--checkpointing_interval" in beams


@pytest.mark.parametrize(
    ("runner", "given", "taken"),
    [("FlinkRunner", "auto", "native"), ("FlinkRunner", "beam", "beam"), ("DataflowRunner", "auto", "beam"),
     ("DataflowRunner", "native", "native")],
)  # fmt: skip
def test_the_native_kafka_io_is_the_default_on_flink_only(runner: str, given: str, taken: str) -> None:
    assert kafka_io_of(given, runner) == taken  # type: ignore[arg-type]


def test_kafka_io_without_a_word_is_native_on_flink() -> None:
    assert validate([*LIVE])[1].kafka_io == "native"
