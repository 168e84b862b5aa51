"""What the `power_quality_code` of reads means: `--quality_map`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from ami_beam import csv_table

Quality = Literal["OK", "SAG", "SWELL", "INTERRUPTION", "HARMONICS", "OTHER"]
COLUMNS = ("source", "code", "quality")


@dataclass(frozen=True)
class QualityMap:
    """Codes with their meaning, in order, hashable as part of the rules of a run."""

    qualities: tuple[tuple[int, Quality], ...]

    def codes(self, quality: Quality) -> list[int]:
        """The codes that have this meaning."""
        return [code for code, meaning in self.qualities if meaning == quality]


def load(path: str) -> QualityMap:
    """The map of a CSV file, plain or .gz; lines that begin with # are passed over. Raises TableError."""
    return parse(csv_table.read(path), path)


def parse(content: bytes, path: str) -> QualityMap:
    """The map in `content`; `path` is for messages. Raises TableError with the first problems of all rows."""
    qualities: dict[int, Quality] = {}

    def take(fields: dict[str, str]) -> str | None:
        problem = _problem(fields, qualities)
        if not problem:
            qualities[int(fields["code"])] = fields["quality"]  # type: ignore[assignment]
        return problem

    empty = "there is no row: no read would count; leave the option out instead"
    csv_table.take_rows(content, path, "quality map", (COLUMNS[1:], COLUMNS), take, empty)
    return QualityMap(tuple(sorted(qualities.items())))


def _problem(fields: dict[str, str], known: dict[int, Quality]) -> str | None:
    code = fields.get("code", "")
    if not re.fullmatch(r"-?[0-9]{1,19}", code) or not -(2**63) <= int(code) < 2**63:
        return f"code={code!r} must be a whole number of 64 bits, as reads have it"
    if int(code) in known:
        return f"code {code} is in the map already; remove one of them"
    if fields.get("quality") not in get_args(Quality):
        return f"quality={fields.get('quality', '')!r} must be one of {', '.join(get_args(Quality))}"
    return None
