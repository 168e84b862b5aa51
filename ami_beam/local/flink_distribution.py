"""The jars of a whole Flink as its makers release it: for a standalone cluster that has nothing of Beam's.

They come out of the source distribution that `flink_distribution.txt` pins and pip downloads and verifies, and stay in
the cache outside the tree (`ami_beam.local.jars`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from ami_beam.local import jars

_PINNED = Path(__file__).with_suffix(".txt")
_PROJECT = "apache-flink-libraries"
_WANTED = ("deps/lib/", "deps/opt/flink-python-")


def fetch() -> list[Path]:
    """Flink's runtime, planner and formats, and its Python gateway; downloaded on the first call.

    Raises CalledProcessError when pip fails.
    """
    return sorted(_folder().glob("*.jar"))


def runtime_class_path() -> str:
    """What a JobManager and a TaskManager need, as a Java class path."""
    return os.pathsep.join(str(path) for path in fetch() if not path.name.startswith("flink-python"))


def _folder() -> Path:
    """The folder of Flink's own jars. It has its name only once it is complete."""
    pinned = next(line for line in _PINNED.read_text().splitlines() if line.startswith(_PROJECT)).split()[0]
    cache = jars.cache_directory().parent
    folder = cache / pinned.replace("==", "-")
    if folder.exists():
        return folder
    with jars.exclusive(cache), tempfile.TemporaryDirectory(dir=cache, prefix=".flink-") as name:
        # Another process may have fetched them while this one waited for the cache.
        if not folder.exists():
            unpacked = Path(name) / "jars"
            unpacked.mkdir()
            _unpack(_download(Path(name)), unpacked)
            unpacked.rename(folder)
    return folder


def _download(into: Path) -> Path:
    print(f"Downloading {_PROJECT} (230 MB)", file=sys.stderr, flush=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    # pip prints to standard output, which belongs to whoever called.
    subprocess.run(
        [*pip, "--no-binary", _PROJECT, "--require-hashes", "-r", str(_PINNED), "-d", str(into)],
        check=True,
        stdout=sys.stderr,
    )
    return next(into.glob("*.tar.gz"))


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            _, _, path = member.name.partition("/")
            if member.isfile() and path.startswith(_WANTED) and path.endswith(".jar"):
                source = tar.extractfile(member)
                assert source is not None
                with source, (folder / Path(path).name).open("wb") as target:
                    shutil.copyfileobj(source, target)
