"""Writes `<name>.lock` from `<name>.pom.xml`: the exact jars and their SHA-256; every machine runs the same bytes.

For developers, after a change to a pom; needs Maven (`mvn`) and its network. Neither runs nor tests need it:

    python -m ami_beam.local.lock            # all poms
    python -m ami_beam.local.lock kafka      # one of them
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ("flink", "kafka", "kafka_connect", "kafka_io")
PARTS = {"kafka_io": "flink"}
"""Of what lock a lock is a part: it has that one's versions, whatever Maven would choose for it alone."""


def write_lock(name: str) -> int:
    """Resolves one pom and writes its lock, sorted, one artefact a line; returns the number of artefacts."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(
            [
                *("mvn", "-q", "-B", "-f", str(HERE / f"{name}.pom.xml"), "dependency:copy-dependencies"),
                *("-Dmdep.useRepositoryLayout=true", f"-DoutputDirectory={directory}", "-DincludeScope=runtime"),
            ],
            check=True,
        )
        root = Path(directory)
        lines = sorted(f"{coordinates(jar.relative_to(root))} {_sha256(jar)}" for jar in root.rglob("*.jar"))
    if name in PARTS:
        lines = part_of((HERE / f"{PARTS[name]}.lock").read_text(encoding="utf-8").splitlines(), lines)
    (HERE / f"{name}.lock").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def part_of(whole: Sequence[str], lines: Sequence[str]) -> list[str]:
    """The lines of `whole` that are about the artefacts of `lines`. Raises KeyError where it has none of one."""
    known = {_artefact(line): line for line in whole}
    return sorted({known[_artefact(line)] for line in lines})


def _artefact(line: str) -> str:
    """`group:artifact` and the classifier, without the version."""
    group, artifact, _, *classifier = line.split()[0].split(":")
    return ":".join([group, artifact, *classifier])


def coordinates(path: Path) -> str:
    """`group:artifact:version[:classifier]` of a jar's path inside a Maven repository."""
    *group, artifact, version, file = path.parts
    rest = file.removesuffix(".jar").removeprefix(f"{artifact}-{version}")
    return ":".join([".".join(group), artifact, version, *([rest.removeprefix("-")] if rest else [])])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    for name in sys.argv[1:] or NAMES:
        print(f"{name}.lock: {write_lock(name)} artefacts")
