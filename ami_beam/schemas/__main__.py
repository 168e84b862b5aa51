"""`python -m ami_beam.schemas`: are the Avro schemas in step with the record types? Writes them, registers them.

python -m ami_beam.schemas                                   # check: exit code 1 names what is out of step
python -m ami_beam.schemas write                             # after a change of a record type
python -m ami_beam.schemas print ami.alarms                  # one topic's schema
python -m ami_beam.schemas register --schema_registry=URL    # all topics' schemas, once, before a run that uses them
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ami_beam.beam_options import OptionError, Parser
from ami_beam.command import leave
from ami_beam.io.schema_registry import RegistryAddress, RegistryError, register
from ami_beam.option_checks import output_prefix_of
from ami_beam.schema_options import registry_of
from ami_beam.schemas import result_topics, schema_text, subject_of
from ami_beam.schemas.generate import all_schemas, as_text

FOLDER = Path(__file__).parent


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 out of step or refused by the registry, 2 a wrong option."""
    parser = Parser(
        prog="python -m ami_beam.schemas",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", nargs="?", default="check", choices=("check", "write", "print", "register"))
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help="those of print and register; all without any")
    parser.add_argument("--output_prefix", default="", metavar="TEXT", help="as for python -m ami_beam.run")
    parser.add_argument("--schema_registry", metavar="URL", help="likewise")
    parser.add_argument("--schema_registry_config_file", metavar="PATH", help="likewise")
    try:
        given = parser.parse_args(argv)
        topics = _known(given.topics)
        prefix = output_prefix_of(given.output_prefix)
        if given.action == "register":
            registry = registry_of(given.schema_registry, given.schema_registry_config_file, "register")
            return _register(registry, topics, prefix)
    except OptionError as error:
        print(f"ami_beam.schemas: {error}", file=sys.stderr)
        return 2
    if given.action == "write":
        for name, schema in all_schemas().items():
            (FOLDER / f"{name}.avsc").write_text(as_text(schema), encoding="utf-8")
        return 0
    if given.action == "print":
        print("".join(schema_text(subject_of(topic)) for topic in topics), end="")
        return 0
    wrong = out_of_step()
    print("\n".join(f"{name}.avsc is out of step: python -m ami_beam.schemas write" for name in wrong) or "In step.")
    return 1 if wrong else 0


def out_of_step() -> list[str]:
    """The files that are not what the record types say, those that are missing, and those that should not be there."""
    wanted = {name: as_text(schema) for name, schema in all_schemas().items()}
    found = {path.name.removesuffix(".avsc"): path.read_text(encoding="utf-8") for path in FOLDER.glob("*.avsc")}
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def _known(topics: Sequence[str]) -> tuple[str, ...]:
    unknown = [topic for topic in topics if topic not in result_topics()]
    if unknown:
        allowed = ", ".join(result_topics())
        raise OptionError("TOPIC", unknown[0], "is no result topic", allowed, "print ami.alarms")
    return tuple(topics) or result_topics()


def _register(registry: RegistryAddress, topics: Sequence[str], prefix: str) -> int:
    try:
        for topic, number in register(registry, topics, prefix).items():
            print(f"{subject_of(prefix + topic)}: schema {number}")
    except RegistryError as error:
        print(f"ami_beam.schemas: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    leave(main())
