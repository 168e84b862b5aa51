"""The topics that a head-end, an OMS and crews publish to unless others are named, and the replay files of the same."""

from __future__ import annotations

READS_TOPIC = "ami.headend.reads"
EVENTS_TOPIC = "ami.headend.events"
OUTAGES_TOPIC = "ami.oms.outages"
WORK_TOPIC = "ami.work"
READS_FILE = "reads.jsonl.gz"
EVENTS_FILE = "events.jsonl.gz"
OUTAGES_FILE = "outages.jsonl.gz"
WORK_FILE = "work.jsonl.gz"
