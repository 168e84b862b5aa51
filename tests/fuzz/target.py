"""One target of `make fuzz` in a process of its own: TARGET RUNS FINDINGS REPORT, then arguments of libFuzzer.

A finding does not end the run: it is kept, one file for each place in the code and kind of failure.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import traceback
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=[
        *("ami_beam.codecs", "ami_beam.instants", "ami_beam.read_columns", "ami_beam.shards", "ami_beam.coders"),
        *("transforms.decode_reads", "transforms.decode_events"),
    ]
):
    from tests.fuzz.properties import CHECKS

_PROGRESS_SECONDS = 10.0


class _Run:
    def __init__(self, target: str, runs: int, findings: Path, report: Path) -> None:
        self._target = target
        self._check = CHECKS[target]
        self._runs = runs
        self._findings = findings
        self._report = report
        self._began = self._told = time.monotonic()
        self._inputs = self._records = 0
        self._seen: set[str] = set()

    def __call__(self, data: bytes) -> None:
        try:
            self._records += self._check(data)
        except Exception as error:
            self._found(error, data)
        self._inputs += 1
        now = time.monotonic()
        if now - self._told >= _PROGRESS_SECONDS or self._inputs == self._runs:
            self._told = now
            self._tell(self._inputs / (now - self._began))
        if self._inputs == self._runs:
            # libFuzzer ends the process in its own way, after which nothing could be said.
            sys.stdout.flush()
            os._exit(0)

    def _found(self, error: Exception, data: bytes) -> None:
        place = traceback.extract_tb(error.__traceback__)[-1]
        key = f"{type(error).__name__} {place.filename}:{place.lineno}"
        if key not in self._seen:
            self._seen.add(key)
            path = self._findings / hashlib.sha256(data).hexdigest()[:16]
            path.write_bytes(data)
            print(f"FOUND {path}\n{''.join(traceback.format_exception(error, limit=-3))}", flush=True)

    def _tell(self, rate: float) -> None:
        done = {"inputs": self._inputs, "records": self._records, "findings": len(self._seen)}
        self._report.write_text(json.dumps(done))
        print(
            f"{time.strftime('%H:%M:%S')} {self._target}: {self._inputs:,} of {self._runs:,} inputs,"
            f" {self._records:,} records, {len(self._seen)} findings, {rate:,.0f} inputs/s",
            flush=True,
        )


if __name__ == "__main__":
    name, runs, findings, report = sys.argv[1:5]
    atheris.Setup([sys.argv[0], *sys.argv[5:]], _Run(name, int(runs), Path(findings), Path(report)))
    atheris.Fuzz()
