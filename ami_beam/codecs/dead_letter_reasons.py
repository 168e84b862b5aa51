"""The stable reason codes of dead letters, and the exception that carries one to the place where a letter is written.

Consumers of the dead-letter topic count and route by these codes: one is never renamed and never changes its meaning.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a record, or a part of it, was set aside."""

    NULL_VALUE = "NULL_VALUE"
    """The Kafka record has no value (a tombstone)."""
    EMPTY_VALUE = "EMPTY_VALUE"
    """The value has no bytes."""
    INVALID_UTF8 = "INVALID_UTF8"
    """The bytes are not UTF-8, or a text holds half a surrogate pair and so cannot be written as UTF-8."""
    INVALID_JSON = "INVALID_JSON"
    """Not exactly one document of strict RFC 8259 JSON, or one nested too deeply."""
    INVALID_AVRO = "INVALID_AVRO"
    """Not exactly one Avro record of its schema in Confluent's wire format, or one of a schema that cannot be used."""
    AVRO_UNKNOWN_SCHEMA = "AVRO_UNKNOWN_SCHEMA"
    """The schema registry knows no schema of the id that the record names."""
    NOT_A_CHANGE = "NOT_A_CHANGE"
    """JSON, but no change of a row in Debezium's envelope, on a topic where such are expected."""
    ROW_DELETED = "ROW_DELETED"
    """The head-end's database has deleted the row. What was made of it cannot know, and stays."""
    TABLE_TRUNCATED = "TABLE_TRUNCATED"
    """The head-end's database has emptied the table, likewise."""
    NOT_AN_OBJECT = "NOT_AN_OBJECT"
    """The document is JSON, but not an object."""
    MISSING_FIELD = "MISSING_FIELD"
    """A required field is not there."""
    WRONG_TYPE = "WRONG_TYPE"
    """A field has another JSON type than the contract's; null in a required field is one."""
    EMPTY_ID = "EMPTY_ID"
    """An id is the empty string."""
    UNKNOWN_READ_TYPE = "UNKNOWN_READ_TYPE"
    """`read_type` is not INTERVAL, DAILY or EVENT."""
    UNKNOWN_WORD = "UNKNOWN_WORD"
    """A field of an announced outage or of work at a meter is none of the words that it may be."""
    INVALID_TIMESTAMP = "INVALID_TIMESTAMP"
    """A timestamp's text is not an instant with a zone in the years 1970 to 2100."""
    INTERVAL_REVERSED = "INTERVAL_REVERSED"
    """`interval_start` is not before `interval_end`, or `from` is not before `to`."""
    NUMBER_OUT_OF_RANGE = "NUMBER_OUT_OF_RANGE"
    """An integer or an energy beyond signed 64 bits, or a voltage that overflows a 64-bit float."""
    IMPLAUSIBLE_VOLTAGE = "IMPLAUSIBLE_VOLTAGE"
    """The voltage is outside the plausible range. The only reason of letters with `used`: the read itself counts."""
    IMPLAUSIBLE_CONSUMPTION = "IMPLAUSIBLE_CONSUMPTION"
    """The consumption is too great for the interval, or negative without being delivered − received."""
    FUTURE_TIMESTAMP = "FUTURE_TIMESTAMP"
    """`interval_end` is too far after the record time."""
    TOO_LATE = "TOO_LATE"
    """The record time is more than the allowed lateness after the end of the read's window."""
    BAD_RECORD_TIME = "BAD_RECORD_TIME"
    """The Kafka record has no timestamp, one outside the years 1970 to 2100, or one ahead of the wall clock."""


class Rejection(Exception):
    """Ends the decoding of one record: a dead letter with this reason and this sentence takes its place."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        self.detail = detail
