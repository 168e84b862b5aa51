"""Kafka client configuration from the command line and from files. Values of secrets never reach a log or an error.

Nor do those of a file reach a job's graph, which a runner stores and may show: there a reference stands for each
(`for_graph`), in the form that Kafka's Java client resolves by itself and `resolved` for the Python one. So a job that
is restored uses the file as it is then, and a password can be changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ami_beam.beam_options import OptionError
from ami_beam.io import secret_manager

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
_REFERENCE = re.compile(r"\$\{(file|env|secretmanager):(?:([^:}]*):)?([^:}]*)\}")
_PROVIDERS = {
    "config.providers": "file,env",
    "config.providers.file.class": "org.apache.kafka.common.config.provider.FileConfigProvider",
    "config.providers.env.class": "org.apache.kafka.common.config.provider.EnvVarConfigProvider",
}
_SECRET_PROVIDER = {
    "config.providers": "file,env,secretmanager",
    "config.providers.secretmanager.class": "amibeam.SecretManagerConfigProvider",
}
"""Ours, in `ami_beam/local/patches`. Only where it is needed: a Kafka client refuses a class that it does not have."""
_NO_SECRET = re.compile(r"[\w.]+\.OAuthBearerLoginModule\s+required\s*;\s*")
"""A login module without options: the identity is the process's own."""
_NATIVE = ("security.", "sasl.", "ssl.", "client.", "metadata.max.age.ms", "reconnect.backoff.")
"""How the settings begin that the native I/O takes; the others are of the Java client alone."""


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


def is_secret(key: str) -> bool:
    """Whether the value of a setting is a secret, by its name; the place of a key store is none."""
    return bool(_SECRET.search(key)) and not key.endswith((".location", ".type"))


def for_graph(given: Mapping[str, str], path: str | None, kafka_io: str) -> dict[str, str]:
    """The settings as a job's graph may hold them: of a file's only references, `${file:PATH:KEY}`.

    The processes that run the job resolve them, so all of them need the file at that path, or may read the secret that
    it is (`${secretmanager:NAME:KEY}`). Beam's own connector can only read Java properties that way. Raises OptionError
    where it would need a secret of another file.
    """
    config: dict[str, str] = {}
    if path is not None:
        stored = load(path)
        local = "://" not in path and not set(":}") & set(path)
        kind, place = "file", os.path.abspath(path) if local else path
        if secret_manager.is_secret(path):
            kind, place, local = "secretmanager", secret_manager.secret_name(path), True
        for key, value in stored.items():
            if local and (kafka_io == "native" or not _is_json(path)):
                config[key] = f"${{{kind}:{place}:{key}}}"
            elif is_secret(key):
                raise OptionError(
                    "--kafka_config_file",
                    path,
                    f"{key} would be stored in the job, which is where others can read it",
                    "Java properties in a local file that every process of the job can read, or in a secret"
                    + ("" if kafka_io == "beam" else ", or JSON"),
                    "--kafka_config_file=/etc/ami-beam/client.properties",
                )
            else:
                config[key] = value
    config |= given
    if kafka_io == "native":
        return {key: value for key, value in config.items() if key.startswith(_NATIVE)}
    needs = any("${" in value for value in config.values()) and "config.providers" not in config
    if any("${secretmanager:" in value for value in config.values()):
        return config | _PROVIDERS | _SECRET_PROVIDER
    return config | _PROVIDERS if needs else config


def resolved(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the contents of files and of environment variables in place of references to them.

    As Kafka's FileConfigProvider and EnvVarConfigProvider have it: `${file:PATH:KEY}`, `${env:NAME}`; and ours,
    `${secretmanager:NAME:KEY}`. Raises ValueError with the setting's name.
    """
    files: dict[str, dict[str, str]] = {}

    def content(setting: str, match: re.Match[str]) -> str:
        kind, place, name = match.groups()
        if kind == "env":
            if name not in os.environ:
                raise ValueError(f"{setting}: there is no environment variable {name} in this process")
            return os.environ[name]
        place = secret_manager.SCHEME + place if kind == "secretmanager" else place
        if place not in files:
            try:
                files[place] = load(place)
            except OptionError as error:
                raise ValueError(f"{setting}: {error}; every process of the job needs this file") from None
        if name not in files[place]:
            raise ValueError(f"{setting}: {place} has no {name}")
        return files[place][name]

    return {
        name: _REFERENCE.sub(lambda match, name=name: content(name, match), value)  # type: ignore[misc]
        if isinstance(value, str)
        else value
        for name, value in config.items()
        if not name.startswith("config.providers")
    }


def config_warnings(given: Mapping[str, str], config: Mapping[str, str], kafka_io: str) -> list[str]:
    """What is allowed and unwise, or has no effect."""
    warnings = [
        f"--kafka_config: {key} is a secret on the command line, which every user of this machine can read, and it is"
        " stored in the job. Put it into --kafka_config_file"
        for key, value in sorted(given.items())
        if is_secret(key) and not _REFERENCE.search(value) and not _NO_SECRET.fullmatch(value)
    ]
    unused = sorted(key for key in config if not key.startswith((*_NATIVE, "config.providers")))
    if unused and kafka_io == "native":
        warnings.append(f"Kafka setting {', '.join(unused)} has no effect with --kafka_io=native")
    return warnings


def _is_json(path: str) -> bool:
    return secret_manager.read(path).lstrip().startswith(b"{")


def load(path: str, option: str = "--kafka_config_file") -> dict[str, str]:
    """The configuration in a file: JSON (an object) or Java properties. Raises OptionError about `option`."""
    example = f"{option}=client.properties"
    try:
        text = secret_manager.read(path).decode("utf-8")
    except UnicodeDecodeError:
        raise OptionError(option, path, "the file is not UTF-8", "a properties or JSON file", example) from None
    except secret_manager.SecretNameError as error:
        raise OptionError(option, path, str(error), "", f"{option}={secret_manager.EXAMPLE}") from None
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
