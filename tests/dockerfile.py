"""The files of an image, from the instructions of its Dockerfile: there is no image builder where tests run."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Dockerfile:
    """A Dockerfile of which one stage, `build`, copies from the checkout into its working folder."""

    path: Path

    def stages(self) -> list[list[tuple[str, str]]]:
        """Instructions and their arguments, a list a stage; the first is what stands before all stages."""
        text = re.sub(r"^\s*#.*\n", "", self.path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
        found: list[list[tuple[str, str]]] = [[]]
        for line in filter(None, map(str.strip, text.splitlines())):
            name, _, rest = line.partition(" ")
            if name == "FROM":
                found.append([])
            found[-1].append((name, rest.strip()))
        return found

    def stage(self, name: str) -> list[tuple[str, str]]:
        (found,) = [stage for stage in self.stages()[1:] if stage[0][1].endswith(f" AS {name}")]
        return found

    def environment(self) -> dict[str, str]:
        """That of the last stage."""
        settings = [rest for name, rest in self.stages()[-1] if name == "ENV"]
        return dict(word.split("=", 1) for rest in settings for word in rest.split())

    def copies(self) -> list[tuple[str, str]]:
        """What comes from the checkout, and where it goes, relative to the working folder."""
        return [
            (source, target)
            for _, rest in (each for each in self.stage("build") if each[0] == "COPY")
            for source, target in [rest.split()]
        ]

    def lay_out(self, into: Path) -> Path:
        """The files of the checkout as they are in the image. Fails where the ignore file keeps one of them away."""
        lines = Path(f"{self.path}.dockerignore").read_text().splitlines()
        rules = [line for line in lines if line and not line.startswith("#")]
        kept = [line[1:] for line in rules if line.startswith("!")]
        assert rules[0] == "*"
        for source, target in self.copies():
            assert any(source == each or source.startswith(f"{each}/") for each in kept), source
            path = ROOT / source
            if path.is_dir():
                shutil.copytree(path, into / target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
            else:
                (into / target).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, into / target)
        return into
