"""Kafka client configuration from the command line and from files. Values of secrets never reach a log or an error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from apache_beam.io.filesystems import FileSystems

from ami_beam.beam_options import OptionError

_SECRET = re.compile(r"password|jaas|secret|token|key|credential|certificate|user\.?info", re.IGNORECASE)
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_EXAMPLE = "--kafka_config security.protocol=SASL_SSL sasl.mechanism=PLAIN"
_OURS = {
    "auto.offset.reset": "--start says where reading starts",
    "key.deserializer": "records are read as bytes",
    "value.deserializer": "records are read as bytes",
    "key.serializer": "records are written as bytes",
    "value.serializer": "records are written as bytes",
}
REDACTED = "***"


def redacted(config: Mapping[str, str]) -> dict[str, str]:
    """The configuration as it may be logged: of secrets only the key."""
    return {key: REDACTED if _SECRET.search(key) else value for key, value in sorted(config.items())}


def pairs(option: str, words: Iterable[str], example: str = _EXAMPLE) -> dict[str, str]:
    """`key=value` words as a dict. An error names the place and never the text, which may be part of a secret."""
    config: dict[str, str] = {}
    for place, word in enumerate(words, start=1):
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise OptionError(
                option,
                None,
                f"value {place} is not key=value (its text is not shown, it may be a secret)",
                "key=value words, each quoted where it holds spaces",
                example,
            )
        if key in config:
            raise OptionError(option, None, f"{key} is given twice", "each key once", example)
        config[key] = value
    return config


def kafka_config(words: Iterable[str], path: str | None) -> dict[str, str]:
    """The configuration of `--kafka_config_file` overridden by `--kafka_config`. Raises OptionError."""
    config = (load(path) if path else {}) | pairs("--kafka_config", words)
    for key, reason in _OURS.items():
        if key in config:
            raise OptionError("--kafka_config", None, f"{key} is not yours to set: {reason}", "any other key", _EXAMPLE)
    return config


def load(path: str) -> dict[str, str]:
    """The configuration in a file: JSON (an object) or Java properties. Raises OptionError."""
    option, example = "--kafka_config_file", "--kafka_config_file=client.properties"
    try:
        with FileSystems.open(path) as stream:
            text = stream.read().decode("utf-8")
    except UnicodeDecodeError:
        raise OptionError(option, path, "the file is not UTF-8", "a properties or JSON file", example) from None
    except Exception as error:  # each file system has its own exceptions
        reason = f"the file cannot be read ({type(error).__name__})"
        raise OptionError(option, path, reason, "a readable properties or JSON file", example) from None
    try:
        return _json(text) if text.lstrip().startswith("{") else properties(text)
    except ValueError as error:
        raise OptionError(option, path, str(error), "key=value lines, or one JSON object of texts", example) from None


def _json(text: str) -> dict[str, str]:
    try:
        content: Any = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    config = {}
    for key, value in content.items():
        if isinstance(value, bool):
            value = str(value).lower()
        if not isinstance(value, str | int | float):
            raise ValueError(f"the value of {key!r} is not a text or a number")
        config[key] = str(value)
    return config


def properties(text: str) -> dict[str, str]:
    """Java properties: comments (# and !), =, : or a space after the key, \\ escapes, lines continued by \\."""
    config = {}
    lines = enumerate(text.splitlines(), start=1)
    for number, raw in lines:
        line = raw.lstrip()
        if not line or line[0] in "#!":
            continue
        while (len(line) - len(line.rstrip("\\"))) % 2:
            line = line[:-1] + next(lines, (number, ""))[1].lstrip()
        match = re.match(r"((?:\\.|[^=:\s\\])+)(?:\s*[=:]\s*|\s+|$)", line)
        if match is None:
            raise ValueError(f"line {number} has no key (its text is not shown, it may be a secret)")
        key = _unescape(match[1], number)
        if key in config:
            raise ValueError(f"line {number}: {key} is given twice")
        config[key] = _unescape(line[match.end() :], number)
    return config


def _unescape(text: str, number: int) -> str:
    def character(match: re.Match[str]) -> str:
        if match[1]:
            return chr(int(match[1], 16))
        if match[2] == "u":
            raise ValueError(f"line {number}: \\u needs four hexadecimal digits")
        return _ESCAPES.get(match[2], match[2])

    return re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.))", character, text)
