"""`python -m ami_beam.local.build_patches`, for developers with a JDK: builds `patches.jar` from its Java sources.

The jar stands before Beam's own on the class path of the job server, of the local Flink and of jobs on a cluster, and
replaces the classes in it, or adds one (`amibeam`); each source says why. It is checked in, because a JRE compiles
nothing. Its manifest holds the sources' hash, so that a test notices a source that was changed without building.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ami_beam.local import jars

SOURCES = Path(__file__).with_name("patches")
JAR = jars.PATCHES
_RELEASE = "11"
_MANIFEST = "META-INF/MANIFEST.MF"


def sources_hash() -> str:
    """The first half of the SHA-256 over names and contents of the sources: a manifest line holds 72 bytes."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.rglob("*.java")):
        digest.update(path.relative_to(SOURCES).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:32]


def built_from() -> str:
    """The sources' hash when the jar was built."""
    with zipfile.ZipFile(JAR) as archive:
        lines = archive.read(_MANIFEST).decode().splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith("Sources: "))


def build() -> None:
    """Compile the sources and write the jar: the same bytes for the same sources and compiler."""
    with tempfile.TemporaryDirectory() as directory:
        files = sorted(map(str, SOURCES.rglob("*.java")))
        class_path = jars.class_path("flink")
        subprocess.run(
            ["javac", "--release", _RELEASE, "-g:none", "-cp", class_path, "-d", directory, *files], check=True
        )
        with zipfile.ZipFile(JAR, "w", zipfile.ZIP_DEFLATED) as archive:
            manifest = f"Manifest-Version: 1.0\r\nSources: {sources_hash()}\r\n\r\n"
            archive.writestr(zipfile.ZipInfo(_MANIFEST), manifest)
            for path in sorted(Path(directory).rglob("*.class")):
                archive.writestr(zipfile.ZipInfo(path.relative_to(directory).as_posix()), path.read_bytes())


if __name__ == "__main__":
    build()
    print(f"{JAR.name}: {JAR.stat().st_size} bytes")
    sys.exit(0)
