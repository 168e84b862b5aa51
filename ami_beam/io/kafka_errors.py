"""Errors of Kafka's clients that several callers have to tell apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException

Answer = TypeVar("Answer")
NO_LEADER = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
"""Of a topic that was just made, or whose broker is being replaced."""
FENCED = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)
"""Another producer has the transactional id now."""


def once_led(ask: Callable[[], Answer], seconds: float, passing: tuple[int, ...] = NO_LEADER) -> Answer:
    """The answer, asked for again while partitions have no leader. Raises KafkaException after `seconds`, or at once.

    Args:
      passing: the errors after which it is asked again.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in passing or time.monotonic() > until:
                raise
        time.sleep(0.1)


def words(error: Exception) -> str:
    """What went wrong, in the client's words; of another exception its name: its text is not for users."""
    if isinstance(error, KafkaException) and error.args and isinstance(error.args[0], KafkaError):
        return str(error.args[0].str())
    return type(error).__name__
