"""The house: packaging, licence and make targets are in step with each other."""

import re
import runpy
import subprocess
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import setuptools

import ami_beam

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements(name: str) -> set[str]:
    """Project names of a requirements file, normalised."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    found = (re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*(?:[=<>~!;\\].*)?$", line) for line in lines)
    return {re.sub(r"[-_.]+", "-", match[1]).lower() for match in found if match}


def test_setup_py_adds_nothing_to_pyproject(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(setuptools, "setup", lambda *args, **kwargs: calls.append((args, kwargs)))
    runpy.run_path(str(ROOT / "setup.py"))
    assert calls == [((), {})]


def test_the_distribution_is_what_pyproject_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = setuptools.find_packages(".", include=PROJECT["tool"]["setuptools"]["packages"]["find"]["include"])
    assert {"ami_beam", "ami_beam.io", "ami_beam.codecs", "ami_beam.local", "transforms", "pipelines"} <= set(found)
    # a folder of modules without __init__.py would be missing on remote workers
    folders = {path.parent for name in ("ami_beam", "transforms", "pipelines") for path in (ROOT / name).rglob("*.py")}
    assert {".".join(folder.relative_to(ROOT).parts) for folder in folders} == set(found)


def test_the_version_is_said_once() -> None:
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "ami_beam.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", ami_beam.__version__)
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text()


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize("name", ["runtime", "dev", "fuzz"])
def test_every_requirement_is_pinned_and_hashed(name: str) -> None:
    wanted = requirements(f"{name}.in") | (requirements("runtime.in") if name == "dev" else set())
    assert wanted <= requirements(f"{name}.txt")
    for line in re.split(r"\n(?=[A-Za-z0-9])", (ROOT / "requirements" / f"{name}.txt").read_text())[1:]:
        assert re.match(r"[A-Za-z0-9._-]+(\[[^\]]*\])?==", line), line.splitlines()[0]
        assert "--hash=sha256:" in line, line.splitlines()[0]


def test_requirements_name_no_registry() -> None:
    for path in (ROOT / "requirements").iterdir():
        assert not re.search(r"https?://|index-url|find-links", path.read_text()), path.name


@pytest.mark.parametrize("module", ["ami_beam.run", "ami_beam.simulate"])
def test_command_line_modules_have_a_main(module: str) -> None:
    assert callable(import_module(module).main)


def test_make_names_its_targets() -> None:
    said = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("setup", "demo", "test", "chaos", "fuzz", "lint", "lock", "audit", "clean"):
        assert re.search(rf"^  make {target}\s+\S", said, re.MULTILINE)


def test_setup_without_a_python_says_what_is_missing(tmp_path: Path) -> None:
    command = ["make", "--no-print-directory", "setup", f"VENV={tmp_path / 'venv'}", "PYTHON=/nonexistent/python"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode
    assert "needs Python 3.11 or newer" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_ci_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "set -euo pipefail" in script.read_text()
    assert "make audit" in script.read_text()
    assert "make test" in script.read_text()
