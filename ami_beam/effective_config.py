"""The rules a run goes by: the id that alerts and alarms name, and the record of `ami.config` that explains it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from hashlib import sha256
from typing import Any

import msgspec
from confluent_kafka import KafkaException, Producer

from ami_beam import __version__
from ami_beam.codecs.json_outputs import CONFIG_TOPIC
from ami_beam.instants import MICROS_PER_MILLI, format_duration, format_instant
from ami_beam.settings import Settings

_NO_RULES = ("shards", "source", "also_publish", "live", "max_disorder", "late_gather", "customer_key_file")
"""What results do not depend on in the end."""
_DURATIONS = (
    "window", "collection_delay", "receipt_delay", "allowed_lateness", "future_limit", "clock_skew", "event_dedup",
    "source_silent", "billing_lateness", "longest_interval",
)  # fmt: skip


def rules(settings: Settings) -> dict[str, Any]:
    """Every setting that decides what is published of the same records, by name; durations as options have them."""
    named = {field.name: getattr(settings, field.name) for field in fields(Settings) if field.name not in _NO_RULES}
    shown = {
        name: format_duration(value) if name in _DURATIONS and value is not None else value
        for name, value in named.items()
    }
    quality_map = settings.quality_map
    return shown | {
        "event_map": [[code, kind.event_type, kind.severity] for code, kind in settings.event_map.kinds],
        "quality_map": None if quality_map is None else quality_map.qualities,
    }


def config_id(settings: Settings) -> str:
    """16 hexadecimal digits: the same rules have the same id, in every run and version that knows the same settings."""
    return sha256(msgspec.json.encode(rules(settings), order="sorted")).hexdigest()[:16]


def config_json(settings: Settings, started: int) -> bytes:
    """The value of the record that explains the id. `started`: of the run, microseconds."""
    return msgspec.json.encode(
        {
            "config_id": config_id(settings),
            "version": __version__,
            "started": format_instant(started // MICROS_PER_MILLI * MICROS_PER_MILLI),
            "rules": rules(settings),
        }
    )


def publish_config(config: Mapping[str, Any], prefix: str, settings: Settings, started: int) -> None:
    """Write the record under its id. Raises KafkaException when the broker has not taken it within 30 s.

    Args:
      config: client settings of confluent-kafka with bootstrap.servers.
      prefix: before the topic's name.
    """
    failures: list[Any] = []
    producer = Producer({**config, "enable.idempotence": True})
    producer.produce(
        prefix + CONFIG_TOPIC,
        key=config_id(settings).encode(),
        value=config_json(settings, started),
        on_delivery=lambda error, _: failures.append(error) if error is not None else None,
    )
    if producer.flush(30):
        producer.purge()
        raise KafkaException(f"topic {prefix + CONFIG_TOPIC}: no broker took the record within 30 s")
    if failures:
        raise KafkaException(failures[0])
