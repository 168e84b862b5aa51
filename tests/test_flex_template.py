"""The flex template: metadata, options and README agree, the image has what is started, scripts say what they do."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.cloud.dataflow_v1beta3.types import ContainerSpec, ParameterType, TemplateMetadata
from google.protobuf import json_format

from ami_beam import flex_template
from ami_beam.beam_options import OptionError, Parser, option_names
from ami_beam.flex_template import NOT_IN_A_TEMPLATE, container_spec, image_of, metadata, parameters, parameters_of
from ami_beam.options import AmiOptions
from tests.dockerfile import ROOT, Dockerfile

FOLDER = ROOT / "templates" / "dataflow"
IMAGE = "europe-west4-docker.pkg.dev/my-project/ami-beam/ami-beam:0.1.0"
DOCKERFILE = Dockerfile(FOLDER / "Dockerfile")
BEAMS_OWN = {"--runner"}
"""In README's table, and Beam's."""


def ours() -> set[str]:
    parser = Parser(add_help=False)
    AmiOptions._add_argparse_args(parser)
    return {name.removeprefix("--") for name in option_names(parser)}


def in_readme() -> dict[str, str]:
    """Names of the option table, with their defaults."""
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| (`--[^|]*) \| ([^|]*) \| .* \|$", text, re.MULTILINE)
    return {
        name: default.strip()
        for names, default in rows
        for name in re.findall(r"`(--[a-z_]+)`", names)
        if name not in BEAMS_OWN
    }


class TestMetadata:
    def test_the_file_is_made_of_the_options(self) -> None:
        assert flex_template.main([]) == 0

    def test_an_option_that_changes_puts_it_out_of_step(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        changed = flex_template.FILE.read_text().replace('"15m"', '"16m"', 1)
        monkeypatch.setattr(flex_template, "FILE", tmp_path / "metadata.json")
        flex_template.FILE.write_text(changed)
        assert flex_template.main([]) == 1
        assert "ami_beam.flex_template write" in capsys.readouterr().out
        assert flex_template.main(["write"]) == flex_template.main([]) == 0

    def test_options_metadata_and_readme_name_the_same(self) -> None:
        named = {parameter.name for parameter in parameters()}
        readme = {name.removeprefix("--") for name in in_readme()}
        assert ours() - named == NOT_IN_A_TEMPLATE.keys()
        assert named - ours() == set()
        assert readme - ours() == set()
        assert ours() - readme == set()
        assert named - readme == set()
        assert readme - named == NOT_IN_A_TEMPLATE.keys()

    def test_defaults_are_those_of_the_readme(self) -> None:
        readme = in_readme()
        compared = 0
        for parameter in parameters():
            said = re.fullmatch(r"`([^`]*)`", readme[f"--{parameter.name}"])
            if parameter.default and said:
                assert parameter.default == said[1], parameter.name
                compared += 1
        assert compared > 25

    def test_the_api_knows_every_field(self) -> None:
        read = TemplateMetadata(json_format.ParseDict(metadata(), TemplateMetadata()._pb))
        assert read.streaming
        assert read.supports_at_least_once
        assert read.supports_exactly_once
        assert read.default_streaming_mode == "EXACTLY_ONCE"
        for each in read.parameters:
            assert each.label
            assert each.help_text
            assert each.group_name
            assert each.param_type != ParameterType.DEFAULT
            assert bool(each.enum_options) == (each.param_type == ParameterType.ENUM)
            if each.enum_options:
                assert each.default_value in [option.value for option in each.enum_options]
        assert [each.name for each in read.parameters if not each.is_optional] == ["bootstrap_servers"]
        with pytest.raises(json_format.ParseError):
            json_format.ParseDict(metadata() | {"supportsAtLeastTwice": True}, TemplateMetadata()._pb)

    def test_defaults_pass_the_regular_expressions(self) -> None:
        checked = 0
        for parameter in parameters():
            for regex in parameter.regexes:
                if parameter.default:
                    assert re.fullmatch(regex, parameter.default), parameter
                    checked += 1
        assert checked > 15

    def test_one_image_launches_and_works(self) -> None:
        read = ContainerSpec(json_format.ParseDict(container_spec(IMAGE), ContainerSpec()._pb))
        assert read.image == read.default_environment.sdk_container_image == IMAGE
        assert read.sdk_info.language.name == "PYTHON"

    @pytest.mark.parametrize(
        ("word", "problem"),
        [
            ("windw=15m", "did you mean window?"),
            ("window=quarter", "its value is refused by the template"),
            ("on_stop=leave", "a launch ends before the job runs"),
            ("kafka_config_file=client.properties", "its value is refused by the template"),
            ("window", "did you mean window?"),
        ],
    )
    def test_parameters_are_checked_before_a_launch(self, word: str, problem: str) -> None:
        with pytest.raises(OptionError, match=re.escape(problem)):
            parameters_of(["bootstrap_servers=b:9092", word])

    @pytest.mark.parametrize("name", [None, "ami-beam", "ami-beam:1", "host/ami-beam", "host/ami beam:1"])
    def test_an_image_has_a_registry_and_a_tag(self, name: str | None) -> None:
        with pytest.raises(OptionError, match="--image"):
            image_of(name)


class TestImage:
    def test_it_is_built_from_what_there_is(self) -> None:
        assert all((ROOT / source).exists() for source, _ in DOCKERFILE.copies())
        install = [rest for name, rest in DOCKERFILE.stage("build") if name == "RUN" and "pip install" in rest]
        assert install == ["pip install --require-hashes --no-deps -r requirements/runtime.txt && pip check"]

    def test_the_jars_are_those_of_the_lock(self) -> None:
        (fetch,) = [rest for name, rest in DOCKERFILE.stage("build") if name == "RUN" and "jars" in rest]
        assert "jars.fetch('kafka_io')" in fetch
        (cache,) = [rest for name, rest in DOCKERFILE.stage("build") if rest.startswith("AMI_BEAM_CACHE=")]
        assert cache == f"AMI_BEAM_CACHE={DOCKERFILE.environment()['AMI_BEAM_CACHE']}"

    def test_everything_is_there_that_is_started(self, tmp_path: Path) -> None:
        laid, environment = DOCKERFILE.lay_out(tmp_path), DOCKERFILE.environment()
        main = Path(environment["FLEX_TEMPLATE_PYTHON_PY_FILE"])
        assert (laid / main.relative_to(environment["PYTHONPATH"])).is_file()
        copied = [rest.split()[-1] for name, rest in DOCKERFILE.stages()[-1] if name == "COPY"]
        for path in ("/opt/apache/beam", "/opt/google/dataflow/python_template_launcher", "/opt/venv", "/opt/ami-beam"):
            assert path in copied
        (entry,) = [rest for name, rest in DOCKERFILE.stages()[-1] if name == "ENTRYPOINT"]
        assert json.loads(entry) == ["/opt/apache/beam/boot"]
        # boot starts this python, with our packages, and not one of its own.
        assert environment["PATH"].startswith("/opt/venv/bin:")
        assert environment["RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT"] == "1"

    def test_the_beam_of_boot_is_the_locked_one(self) -> None:
        (image,) = [rest for name, rest in DOCKERFILE.stages()[0] if rest.startswith("BEAM_IMAGE=")]
        (locked,) = re.findall(
            r"^apache-beam(?:\[gcp\])?==(\S+)", (ROOT / "requirements/runtime.txt").read_text(), re.M
        )
        assert image.endswith(f":{locked}")

    def test_the_main_file_is_the_command_and_no_more(self) -> None:
        tree = ast.parse((FOLDER / "main.py").read_text())
        imported = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
        assert imported == ["ami_beam.command", "ami_beam.run"]
        # Classes of a main file would not be found on workers.
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)]

    def test_cloud_build_uses_the_dockerfile(self) -> None:
        config = yaml.safe_load((FOLDER / "cloudbuild.yaml").read_text())
        (step,) = config["steps"]
        assert "--file=templates/dataflow/Dockerfile" in step["args"]
        assert config["images"] == ["${_IMAGE}"]
        sent = (FOLDER / "Dockerfile.gcloudignore").read_text().splitlines()
        for source, _ in DOCKERFILE.copies():
            assert f"!{source}" in sent or f"!{source.partition('/')[0]}" in sent, source


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    shutil.copy(FOLDER / "settings.example", tmp_path / "settings")
    return {**os.environ, "SETTINGS": str(tmp_path / "settings"), "PYTHON": sys.executable}


def said(name: str, environment: dict[str, str], *arguments: str, code: int = 0) -> str:
    command = [str(FOLDER / name), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


class TestScripts:
    """What they would do; `tests/test_dataflow_launch.py` lets `stage` and `run` do it."""

    def test_dry_runs_say_what_would_be_done(self, environment: dict[str, str]) -> None:
        build = said("build", environment, "--dry-run")
        assert f"--substitutions=_IMAGE={IMAGE}" in build
        assert build.count("+ gcloud builds submit") == 1
        assert f"+ docker push {IMAGE}" in said("build", environment, "--dry-run", "--local")
        stage = said("stage", environment, "--dry-run")
        assert "gs://my-project-ami-beam/templates/ami-beam-0.1.0.json" in stage
        words = ["--bootstrap_servers=b1:9092,b2:9092", "--meter_counts=gs://b/c.csv", "--shards=256"]
        launch = said("run", environment, "--dry-run", "--update", "--at-least-once", *words)
        assert '"bootstrap_servers": "b1:9092,b2:9092"' in launch
        for flag in ("--disable-public-ips", "--update", "--max-workers=4", "streaming_mode_at_least_once"):
            assert flag in launch

    @pytest.mark.parametrize("name", ["build", "stage", "run"])
    def test_help_shows_an_example_and_a_wrong_option_is_named(self, name: str, environment: dict[str, str]) -> None:
        assert f"templates/dataflow/{name}" in said(name, environment, "--help").partition("\n\n")[2]
        assert "--dyr-run: " in said(name, environment, "--dyr-run", code=2)
        environment["SETTINGS"] = "nowhere"
        last = ["--bootstrap_servers=b:1"] if name == "run" else []
        assert "settings.example" in said(name, environment, "--dry-run", *last, code=2)

    def test_a_wrong_parameter_is_refused_before_a_launch(self, environment: dict[str, str]) -> None:
        assert "did you mean window?" in said(
            "run", environment, "--dry-run", "--bootstrap_servers=b:1", "--windw=1", code=2
        )


class TestTerraform:
    """Formatted and parsed by Terraform itself. Its provider cannot be had here, so nothing is planned."""

    @pytest.mark.skipif(shutil.which("terraform") is None, reason="no Terraform here")
    def test_it_is_formatted_and_parsed(self, tmp_path: Path) -> None:
        environment = {**os.environ, "TF_CLI_CONFIG_FILE": os.devnull, "CHECKPOINT_DISABLE": "1"}
        command = ["terraform", "fmt", "-check", "-diff"]
        done = subprocess.run(command, cwd=FOLDER / "terraform", env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        (tmp_path / "broken.tf").write_text('resource "a" {')
        assert subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode

    def test_scripts_and_terraform_name_the_same_things(self) -> None:
        text = (FOLDER / "terraform" / "outputs.tf").read_text()
        outputs = set(re.findall(r"^\s+([A-Z_]+)\s+=", text, re.MULTILINE))
        settings = set(re.findall(r"^([A-Z_]+)=", (FOLDER / "settings.example").read_text(), re.MULTILINE))
        assert settings - outputs == {"MACHINE_TYPE", "MIN_WORKERS", "MAX_WORKERS"}
        assert outputs < settings

    def test_alert_policies_watch_counters_that_there_are(self) -> None:
        text = (FOLDER / "terraform" / "monitoring.tf").read_text()
        code = "".join(
            path.read_text() for folder in ("transforms", "ami_beam") for path in (ROOT / folder).rglob("*.py")
        )
        named = re.findall(r'metric_name=~?\\"([^"\\]+)\\"', text)
        assert len(named) >= 4
        for pattern in named:
            for each in re.sub(r"\(([^()]*)\)", "(", pattern).split("|"):
                stem = each.replace(".+", "").replace("(", "").strip("_")
                assert stem in code, each

    def test_no_secret_goes_through_terraform(self) -> None:
        text = "".join(path.read_text() for path in (FOLDER / "terraform").glob("*.tf"))
        assert "google_secret_manager_secret_version" not in text
        assert "roles/owner" not in text
        assert "roles/editor" not in text
