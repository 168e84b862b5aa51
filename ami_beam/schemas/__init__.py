"""The Avro schemas of topics and files, as they are in the files `*.avsc` of this package.

One for each topic, named like its subject (`ami.alarms-value`), and one for each kind of row that is written to files,
named like the row. They are generated from the record types: `python -m ami_beam.schemas` checks and rewrites them.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from ami_beam.results import RESULTS

NAMESPACE = "ami"
FILE_TABLES = ("validated_read", "meter_day")
"""Rows that are written to Avro files, too: in a file no other kind of rows needs room."""


def subject_of(topic: str) -> str:
    """Under which name the registry keeps the schemas of a topic's values: Confluent's TopicNameStrategy."""
    return f"{topic}-value"


def result_topics() -> tuple[str, ...]:
    """The topics of `RESULTS`, each once."""
    return tuple(dict.fromkeys(result.topic for result in RESULTS))


@cache
def schema_text(name: str) -> str:
    """The schema in a file, by its name without `.avsc`."""
    return (files(__name__) / f"{name}.avsc").read_text(encoding="utf-8")
