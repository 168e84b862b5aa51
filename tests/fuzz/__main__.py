"""`make fuzz`: coverage-guided inputs for the decoders and for packing, and what they find.

Each target runs in a process of its own, with atheris watching which branches an input reaches and keeping the inputs
that reach new ones. An input is a batch of records. A finding is kept as a file, which
`python -m tests.fuzz --replay FILE` runs again. Exit code 1 when there are findings.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.corpus import FILES, keep, load, save

SHARES = {"reads": 0.3, "events": 0.4, "changes": 0.1, "blocks": 0.2}
"""Of the inputs, by target."""
_RANDOM_SEEDS = 500
_PROCESS_RUNS = 50_000
"""Inputs of one process: under the fuzzer's eyes it grows by some 20 KB an input, and alone it does not."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000, help="inputs, over all targets (%(default)s)")
    parser.add_argument("--targets", default=",".join(SHARES), help="which (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the fuzzer (%(default)s)")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="folder for them (%(default)s)")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="put the inputs that were kept into the corpus here"
    )
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run a finding again, and nothing else")
    options = parser.parse_args()
    if options.replay:
        return _replay(options.replay)
    targets = options.targets.split(",")
    unknown = [target for target in targets if target not in SHARES]
    if unknown:
        parser.error(f"no target {unknown[0]}; there are {', '.join(SHARES)}")
    began, inputs, records, findings = time.monotonic(), 0, 0, 0
    whole = sum(SHARES[target] for target in targets)
    for number, target in enumerate(targets):
        is_last = number == len(targets) - 1
        runs = options.runs - inputs if is_last else round(options.runs * SHARES[target] / whole)
        done = _fuzz(target, runs, options.seed, options.findings / target, options.keep)
        inputs, records, findings = inputs + done["inputs"], records + done["records"], findings + done["findings"]
    seconds = time.monotonic() - began
    print(
        f"{inputs:,} inputs ({records:,} records), {findings} findings, {inputs / seconds:,.0f} inputs/s,"
        f" {seconds:.0f} s",
        flush=True,
    )
    return 1 if findings else 0


def _fuzz(target: str, runs: int, seed: int, findings: Path, kept: Path | None) -> dict[str, int]:
    """The counts of a target's run: inputs, records, findings."""
    findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ami-beam-fuzz-") as directory:
        grown, seeds = Path(directory) / "grown", Path(directory) / "seeds"
        grown.mkdir()
        seeds.mkdir()
        # Random ones besides: the kept ones are as short as can be, and the fuzzer makes few much longer ones of them.
        source = random.Random(seed)
        chance = [source.randbytes(source.randrange(400)) for _ in range(_RANDOM_SEEDS)]
        for number, data in enumerate([*load(FILES / f"{target}.hex"), *chance]):
            (seeds / str(number)).write_bytes(data)
        done = {"inputs": 0, "records": 0, "findings": 0}
        while done["inputs"] < runs:
            part = _process(target, min(_PROCESS_RUNS, runs - done["inputs"]), seed, findings, Path(directory))
            done = {name: count + part[name] for name, count in done.items()}
            seed += 1
            if not part["inputs"]:
                break
        if kept is not None:
            inputs = [*load(FILES / f"{target}.hex"), *(path.read_bytes() for path in sorted(grown.iterdir()))]
            save(kept / f"{target}.hex", keep(target, inputs))
    if not any(findings.iterdir()):
        findings.rmdir()
    return done


def _process(target: str, runs: int, seed: int, findings: Path, directory: Path) -> dict[str, int]:
    """The counts of one process, which goes on from what those before it have found."""
    report = directory / "report.json"
    report.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "tests.fuzz.target", target, str(runs), str(findings), str(report)),
        *(str(directory / "grown"), str(directory / "seeds"), f"-seed={seed}", "-max_len=400", "-len_control=0"),
        *("-timeout=60", "-rss_limit_mb=4096", f"-artifact_prefix={findings}/ended-"),
    ]
    # What the fuzzer itself says goes to standard error: a line for every input that it keeps.
    with (directory / "log").open("w+b") as log:
        code = subprocess.run(command, stderr=log, check=False).returncode
        done = json.loads(report.read_text()) if report.exists() else {"inputs": 0, "records": 0, "findings": 0}
        if code != 0:  # the process was killed by an input, or did not start
            log.seek(0)
            print(log.read()[-3000:].decode(errors="replace"), file=sys.stderr)
            done["findings"] += 1
    return done


def _replay(path: Path) -> int:
    from tests.fuzz.properties import CHECKS

    print(f"{CHECKS[path.parent.name](path.read_bytes())} records, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
