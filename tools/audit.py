"""`make audit`: writes a bill of materials and asks a database for known weaknesses of the pinned Python packages.

The bill, `build/sbom.json` (CycloneDX), needs no network. Exit codes: 0 nothing known, or the database could not be
reached, which is said; 1 weaknesses are known, or with `--strict` nobody could be asked.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

import ami_beam
from ami_beam.local import jars

ROOT = Path(__file__).parents[1]
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)
_UNREACHABLE = ("ConnectionError", "ServiceError", "Timeout", "Max retries", "ConnectError", "Connection refused")


def pinned(path: Path) -> list[tuple[str, str]]:
    """Name and version of every package that a requirements file pins; a name may come with several versions."""
    return sorted(set(_PINNED.findall(path.read_text(encoding="utf-8"))))


def bill() -> Bom:
    """Everything of others by pinned version: Python packages, jars, Flink's distribution, what a page has with it."""
    bom = Bom()
    bom.metadata.component = Component(
        name="ami-beam", version=ami_beam.__version__, type=ComponentType.APPLICATION, bom_ref="ami-beam"
    )
    for component in (*_packages(), *_jars(), _chart_library()):
        bom.components.add(component)
    bom.register_dependency(bom.metadata.component, bom.components)
    return bom


def _packages() -> Iterator[Component]:
    needed = set(pinned(ROOT / "requirements" / "runtime.txt"))
    distribution = pinned(ROOT / "ami_beam" / "local" / "flink_distribution.txt")
    for name, version in (*pinned(ROOT / "requirements" / "dev.txt"), *distribution):
        purl = PackageURL("pypi", None, name.lower(), version)
        # What only tests and tools need is not a part of the product.
        scope = ComponentScope.REQUIRED if (name, version) in needed else ComponentScope.EXCLUDED
        yield Component(name=name, version=version, purl=purl, bom_ref=str(purl), scope=scope)


def _jars() -> Iterator[Component]:
    found = {
        artefact.coordinates: artefact
        for lock in sorted((ROOT / "ami_beam" / "local").glob("*.lock"))
        for artefact in jars.read_lock(lock.stem)
    }
    for coordinates, artefact in found.items():
        plain, _, extension = coordinates.partition("@")
        group, name, version, *classifier = plain.split(":")
        qualifiers = {"classifier": classifier[0]} if classifier else {}
        if extension:
            qualifiers["type"] = extension
        purl = PackageURL("maven", group, name, version, qualifiers or None)
        hashes = [HashType(alg=HashAlgorithm.SHA_256, content=artefact.sha256)]
        yield Component(group=group, name=name, version=version, purl=purl, bom_ref=str(purl), hashes=hashes)


def _chart_library() -> Component:
    folder = ROOT / "ami_beam" / "dashboard" / "static" / "vendor"
    found = re.search(r"^uPlot ([\d.]+),", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    purl = PackageURL("npm", None, "uplot", found[1])
    content = sha256((folder / "uPlot.esm.js").read_bytes()).hexdigest()
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=content)]
    return Component(name="uplot", version=found[1], purl=purl, bom_ref=str(purl), hashes=hashes)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the bill and ask the database. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="make audit", description=__doc__)
    parser.add_argument("--strict", action="store_true", help="fail when the database cannot be reached")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "sbom.json", help="(build/sbom.json)")
    parser.add_argument("--osv-url", help="another server with OSV's interface")
    options = parser.parse_args(argv)
    bom = bill()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(JsonV1Dot6(bom).output_as_string(indent=2) + "\n", encoding="utf-8")
    print(f"Bill of materials: {options.output} ({len(bom.components)} components)")
    # Not the package registry's own interface: it would be asked for every package by name.
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service=osv", "--timeout=10", "--format=json"]
    command += ["--progress-spinner=off", "--disable-pip", "--no-deps", "-r", str(ROOT / "requirements" / "dev.txt")]
    if options.osv_url:
        command.append(f"--osv-url={options.osv_url}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        answer = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        if not any(word in done.stderr for word in _UNREACHABLE):
            print(done.stderr, file=sys.stderr)
            return 1
        reason = done.stderr.strip().splitlines()[-1][:300]
        print(f"NOT AUDITED: the vulnerability database cannot be reached ({reason}).", file=sys.stderr)
        return 1 if options.strict else 0
    known = [(package, weakness) for package in answer for weakness in package.get("vulns", ())]
    for package, weakness in known:
        fixed = ", ".join(weakness["fix_versions"]) or "none yet"
        print(f"{package['name']} {package['version']}: {weakness['id']}; fixed in {fixed}")
    print(f"Audited {len(answer)} Python packages: {len(known)} known weaknesses.")
    return 1 if known else 0


if __name__ == "__main__":
    sys.exit(main())
