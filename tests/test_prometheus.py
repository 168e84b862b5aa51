"""The alert rules agree with the code, the documents and the manifests; a real scrape is in test_flink_cluster.py."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ami_beam.codecs.dead_letter_reasons import Reason
from ami_beam.instants import MICROS_PER_SECOND
from ami_beam.settings import Settings
from tests.prometheus import FOLDER, PREFIX, ROOT, alarms, readme_metrics, rules, selectors

CODE = "\n".join(
    path.read_text() for folder in ("ami_beam", "transforms") for path in sorted((ROOT / folder).rglob("*.py"))
)
IN_CODE = set(re.findall(r'Metrics\.(?:counter|gauge|distribution)\(\s*(?:METRICS|"ami"), f?"(\w+)', CODE))
"""The names, and of those that end with something else the beginning."""
RUNBOOK = ROOT / "docs" / "runbook"
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def alarm(name: str) -> dict:
    (found,) = [rule for rule in alarms() if rule["alert"] == name]
    return found


def test_every_alarm_says_what_it_is_and_what_to_do() -> None:
    names = [rule["alert"] for rule in alarms()]
    assert len(names) == len(set(names)) == 13
    for rule in alarms():
        assert set(rule["labels"]) == {"severity"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}


def test_every_alarm_has_a_page_and_every_page_an_alarm() -> None:
    pages = {rule["annotations"]["runbook_url"]: rule["alert"] for rule in alarms()}
    assert {str(path.relative_to(ROOT)) for path in RUNBOOK.iterdir()} == set(pages)
    for page, name in pages.items():
        text = (ROOT / page).read_text()
        assert text.startswith(f"# {name}\n")
        sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
        assert sections == ["What it means", "What the control room sees", "What to look at", "What to do", "Over when"]
        assert f"[{name}]({page.removeprefix('docs/')})" in OPERATIONS


def test_rules_read_only_what_is_recorded() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert {name for rule in rules() for name in re.findall(r"ami_beam:\w+:\w+", rule["expr"])} == recorded


def test_every_metric_of_ours_in_a_rule_is_in_the_code() -> None:
    ours = {each.name.removeprefix(PREFIX) for each in selectors() if each.name.startswith(PREFIX)}
    assert ours
    assert {name.removesuffix(".+") for name in ours} <= IN_CODE


def test_the_readme_names_every_metric_and_no_other() -> None:
    assert {re.sub(r"<.*", "", name) for name in readme_metrics()} == IN_CODE


def test_the_tests_of_the_rules_know_only_real_reasons() -> None:
    text = (FOLDER / "alerts_test.yaml").read_text()
    assert set(re.findall(r"ami_dead_letter_(\w+)", text)) <= set(Reason)


def test_every_alarm_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    tests = yaml.safe_load((FOLDER / "alerts_test.yaml").read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", ())]
    for fires in (True, False):
        assert {case["alertname"] for case in cases if bool(case.get("exp_alerts")) is fires} == {
            rule["alert"] for rule in alarms()
        }


def test_the_numbers_are_those_of_the_manifests_and_the_defaults() -> None:
    deployment = yaml.safe_load((ROOT / "templates" / "kubernetes" / "cluster" / "flink.yaml").read_text())
    replicas = deployment["spec"]["taskManager"]["replicas"]
    assert alarm("AmiBeamTaskManagersMissing")["expr"].endswith(f"< {replicas}")
    seconds = Settings().collection_delay // MICROS_PER_SECOND
    assert alarm("AmiBeamCollectionDelay")["expr"].endswith(f"> {seconds}")
    submission = (ROOT / "templates" / "kubernetes" / "submit" / "job.yaml").read_text()
    (name,) = re.findall(r"--job_name=([\w-]+)", submission)
    assert f'job_name="{name.replace("-", "_")}"' in alarm("AmiBeamJobNotRunning")["expr"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here")
def test_promtool_agrees() -> None:
    command = ["promtool", "test", "rules", str(FOLDER / "alerts_test.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    checked = subprocess.run(["promtool", "check", "rules", str(FOLDER / "alerts.yaml")], capture_output=True)
    assert checked.returncode == 0


def test_links_of_the_runbook_lead_somewhere() -> None:
    for page in (ROOT / "docs" / "operations.md", *RUNBOOK.iterdir()):
        for link in re.findall(r"\]\((?!https?:)([^)#]*)", page.read_text()):
            assert not link or (page.parent / link).exists(), (page.name, link)


def test_commands_of_the_runbook_are_ours() -> None:
    for page in RUNBOOK.iterdir():
        for module in re.findall(r"python -m ([\w.]+)", page.read_text()):
            assert Path(ROOT, *module.split(".")).with_suffix(".py").exists(), (page.name, module)
