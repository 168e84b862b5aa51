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
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ("flink", "kafka", "kafka_connect")


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
    (HERE / f"{name}.lock").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


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
