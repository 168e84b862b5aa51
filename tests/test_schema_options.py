"""The options about formats of records: what they become, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ami_beam.beam_options import OptionError
from ami_beam.codecs.writer_schemas import Changes, Schemas
from ami_beam.instants import MICROS_PER_MINUTE, MICROS_PER_SECOND
from ami_beam.io.schema_registry import RegistryAddress, RegistrySchemas
from ami_beam.options import validate
from ami_beam.settings import Settings

LIVE = ("--bootstrap_servers=broker:9092",)
REPLAY = ("--source=files", "--sink=files")
REGISTRY = "--schema_registry=http://registry:8081"
VALIDATED = ("--also_publish=validated_reads", "--customer_id=drop")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the default inputs."""
    (tmp_path / "transformer_meter_count.csv").write_text("transformer_id,total_meters\nT1,2\n")
    for name in ("reads.jsonl.gz", "events.jsonl.gz"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(*argv: str) -> str:
    with pytest.raises(OptionError) as caught:
        validate(argv)
    return str(caught.value)


def test_everything_is_json_unless_asked_for() -> None:
    settings, plan = validate(LIVE)
    assert settings == Settings(live=True)
    assert plan.formats.registry is None
    assert plan.formats.inputs() == Schemas()
    assert (plan.validated_files, plan.validated_files_every) == (None, 15 * MICROS_PER_MINUTE)


@pytest.mark.parametrize("name", ["reads", "events", "output"])
def test_each_format_is_its_own(name: str) -> None:
    settings, plan = validate((*LIVE, f"--{name}_format=avro", REGISTRY))
    formats = {other: getattr(plan.formats, other) for other in ("reads", "events", "output")}
    assert formats == {other: "avro" if other == name else "json" for other in formats}
    assert plan.formats.registry == RegistryAddress("http://registry:8081", None, "look_up")
    inputs = plan.formats.inputs()
    assert [inputs.reads is not None, inputs.events is not None] == [name == "reads", name == "events"]
    # State does not depend on how records are written.
    assert settings.state_label() == validate(LIVE)[0].state_label()
    assert refusal(*LIVE, f"--{name}_format=avro").startswith("--schema_registry: is missing")
    assert refusal(*LIVE, f"--{name}_format=xml").startswith(f"--{name}_format=xml: is neither")


@pytest.mark.parametrize("name", ["reads", "events"])
@pytest.mark.parametrize("where", [LIVE, REPLAY])
def test_what_is_read_may_be_changes_of_a_table(name: str, where: tuple[str, ...]) -> None:
    """Which needs no registry, and goes together with Avro elsewhere."""
    settings, plan = validate((*where, f"--{name}_format=debezium"))
    assert plan.formats.registry is None
    inputs = plan.formats.inputs()
    assert [inputs.reads, inputs.events] == [Changes() if name == each else None for each in ("reads", "events")]
    assert settings.state_label() == validate(where)[0].state_label()
    other = "events" if name == "reads" else "reads"
    inputs = validate((*where, f"--{name}_format=debezium", f"--{other}_format=avro", REGISTRY))[1].formats.inputs()
    assert isinstance(getattr(inputs, other), RegistrySchemas)


def test_results_are_no_changes_of_a_table() -> None:
    said = refusal(*LIVE, "--output_format=debezium")
    assert said.startswith("--output_format=debezium: is neither")
    assert "json or avro" in said
    assert "json or avro or debezium" in refusal(*LIVE, "--reads_format=Debezium")


def test_a_replay_may_read_avro_and_writes_json() -> None:
    _, plan = validate((*REPLAY, "--reads_format=avro", REGISTRY))
    assert plan.formats.reads == "avro"
    assert refusal(*REPLAY, "--output_format=avro", REGISTRY).startswith("--output_format=avro: a file of --sink=files")


@pytest.mark.parametrize("url", ["registry:8081", "ftp://registry", "http://", "http://registry?x=1", "mock://a", ""])
def test_what_is_no_registry_is_refused(url: str) -> None:
    said = refusal(*LIVE, "--reads_format=avro", f"--schema_registry={url}")
    assert said.startswith(f"--schema_registry={url}: is no address of a registry")
    assert "Example: --schema_registry=https://registry:8081" in said


def test_a_login_in_the_url_is_refused_and_not_shown() -> None:
    said = refusal(*LIVE, "--reads_format=avro", "--schema_registry=https://ami:s3cret@registry:8081")
    assert "s3cret" not in said
    assert "basic.auth.user.info in --schema_registry_config_file" in said


def test_settings_need_a_registry_and_a_file(folder: Path) -> None:
    (folder / "r.properties").write_text("timeout=5\n")
    assert refusal(*LIVE, "--schema_registry_config_file=r.properties").startswith("--schema_registry: is missing")
    assert "none.properties" in refusal(*LIVE, REGISTRY, "--schema_registry_config_file=none.properties")
    assert refusal(*LIVE, REGISTRY, "--schema_registration=yes").startswith("--schema_registration=yes: is neither")
    _, plan = validate((*LIVE, REGISTRY, "--schema_registry_config_file=r.properties"))
    assert plan.formats.registry is not None
    # Workers have other working folders.
    assert plan.formats.registry.config_file == str(folder / "r.properties")


def test_files_need_rows_and_a_folder(folder: Path) -> None:
    settings, plan = validate((*REPLAY, *VALIDATED, "--validated_files=made/here"))
    assert plan.validated_files == "made/here"
    assert refusal(*REPLAY, "--validated_files=x").startswith("--validated_files=x: there are no validated reads")
    (folder / "file").write_bytes(b"")
    assert "is not a folder to write to" in refusal(*REPLAY, *VALIDATED, "--validated_files=file/x")
    _, plan = validate((*LIVE, *VALIDATED, "--validated_files=x", "--validated_files_every=90s"))
    assert plan.validated_files_every == 90 * MICROS_PER_SECOND
    assert plan.redacted()["validated_files_every"] == "90s"
    assert refusal(*LIVE, "--validated_files_every=1ms").startswith("--validated_files_every=1ms: is too short")
    # They add steps with state to the graph.
    settings, _ = validate((*LIVE, *VALIDATED, "--validated_files=x"))
    assert settings.state_label() != validate((*LIVE, *VALIDATED))[0].state_label()
