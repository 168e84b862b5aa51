"""Kafka's Java client settings as librdkafka's, so that one `--kafka_config_file` serves both.

A setting that librdkafka has no equal for is refused with what to write instead: one that were left out would make a
connection less protected than its owner believes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ami_beam.io import google_kafka_login
from ami_beam.kafka_config import resolved

ClientValue = str | int | float | bool | Callable[[str], tuple[str, float]]

_SECURITY = ("security.", "sasl.", "ssl.")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
_JAAS_MODULE = re.compile(r"\s*([\w.$]+)\s+(?:required|requisite|sufficient|optional)\b")
_JAAS_OPTION = re.compile(r"""\b(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^\s;"']+))""")
_PEM = "Java can read PEM, too: write {kind}.type=PEM and {kind}.location=FILE.pem"
_INSTEAD = {
    # librdkafka's own names, which Java passes over in silence.
    "sasl.mechanisms": "write sasl.mechanism",
    "sasl.username": "write sasl.jaas.config",
    "sasl.password": "write sasl.jaas.config",
    "ssl.ca.location": "write ssl.truststore.type=PEM and ssl.truststore.location",
    "ssl.ca.pem": "write ssl.truststore.type=PEM and ssl.truststore.certificates",
    "ssl.certificate.location": "write ssl.keystore.type=PEM and ssl.keystore.location, one file with key and chain",
    "ssl.key.location": "write ssl.keystore.type=PEM and ssl.keystore.location, one file with key and chain",
    "ssl.certificate.pem": "write ssl.keystore.type=PEM and ssl.keystore.certificate.chain",
    "ssl.key.pem": "write ssl.keystore.type=PEM and ssl.keystore.key",
    "enable.ssl.certificate.verification": "certificates are always verified; leave it out",
    "ssl.truststore.password": "a trust store in PEM has none; leave it out and write ssl.truststore.type=PEM",
}
_AS_JAVA_HAS_IT = {
    "ssl.protocol": {"TLS", "TLSv1.2", "TLSv1.3"},
    "ssl.enabled.protocols": {"TLSv1.2,TLSv1.3", "TLSv1.3,TLSv1.2"},
}
"""What librdkafka does anyway with these settings, by its OpenSSL."""


class SettingError(ValueError):
    """A client setting that cannot be honoured; the message names it, what to write instead, and no value."""


def librdkafka(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings for a client of confluent-kafka, references resolved. Raises SettingError.

    Settings of other things than security pass as they are.
    """
    try:
        java = resolved(config)
    except ValueError as error:
        raise SettingError(str(error)) from None
    # What goes wrong reaches the caller; the client would print it on top, a line for every attempt.
    made: dict[str, ClientValue] = {"log_level": "0"}
    made |= {name: value for name, value in java.items() if not name.startswith(_SECURITY)}
    security = {name: str(value) for name, value in java.items() if name.startswith(_SECURITY)}
    for name, instead in _INSTEAD.items():
        if name in java:
            raise SettingError(f"{name} cannot be used: {instead}.")
    for name, usual in _AS_JAVA_HAS_IT.items():
        if security.pop(name, None) not in (None, *usual):
            raise SettingError(f"{name} can only be {' or '.join(sorted(usual))}: restrict protocols on the broker.")
    protocol = security.pop("security.protocol", None)
    if protocol is not None:
        made["security.protocol"] = protocol
    made |= _login(security, protocol or "PLAINTEXT") | _trust(security) | _key(security)
    if "ssl.endpoint.identification.algorithm" in security:
        # Java spells "no check" as an empty text.
        made["ssl.endpoint.identification.algorithm"] = security.pop("ssl.endpoint.identification.algorithm") or "none"
    if security:
        raise SettingError(
            f"{', '.join(sorted(security))} cannot be used: ami-beam's look at the broker and its native connector have"
            " nothing equal; leave it out."
        )
    return made


def _login(security: dict[str, str], protocol: str) -> dict[str, ClientValue]:
    mechanism = security.pop("sasl.mechanism", None)
    jaas = security.pop("sasl.jaas.config", None)
    handler = security.pop("sasl.login.callback.handler.class", None) if mechanism == "OAUTHBEARER" else None
    if not protocol.upper().startswith("SASL_"):
        return {}
    if mechanism not in _MECHANISMS:
        raise SettingError(f"sasl.mechanism must be one of {', '.join(_MECHANISMS)}; Java's own default is GSSAPI.")
    if mechanism == "OAUTHBEARER":
        if handler != google_kafka_login.HANDLER:
            raise SettingError(
                "sasl.mechanism=OAUTHBEARER can only be Google's: write"
                f" sasl.login.callback.handler.class={google_kafka_login.HANDLER} and"
                " sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;"
            )
        return {"sasl.mechanism": mechanism, "oauth_cb": google_kafka_login.token}
    if jaas is None:
        raise SettingError(f"sasl.jaas.config is missing: security.protocol={protocol} needs user name and password.")
    module = _JAAS_MODULE.match(jaas)
    wanted = "PlainLoginModule" if mechanism == "PLAIN" else "ScramLoginModule"
    options = {name: _unescaped(a or b or c) for name, a, b, c in _JAAS_OPTION.findall(jaas)}
    if module is None or module[1].rpartition(".")[2] != wanted or not {"username", "password"} <= options.keys():
        kind = "plain" if mechanism == "PLAIN" else "scram"
        raise SettingError(
            f"sasl.jaas.config does not fit sasl.mechanism={mechanism}: write org.apache.kafka.common.security."
            f'{kind}.{wanted} required username="…" password="…";'
        )
    return {
        "sasl.mechanism": mechanism,
        "sasl.username": options["username"],
        "sasl.password": options["password"],
    }


def _trust(security: dict[str, str]) -> dict[str, ClientValue]:
    made: dict[str, ClientValue] = {}
    kind = security.pop("ssl.truststore.type", None)
    place = security.pop("ssl.truststore.location", None)
    text = security.pop("ssl.truststore.certificates", None)
    if (place or text) and kind != "PEM":
        raise SettingError(
            f"ssl.truststore.type={kind or 'JKS'} cannot be used (JKS is Java's default). "
            + _PEM.format(kind="ssl.truststore")
            + ", which keytool -exportcert -rfc writes for each alias of the store."
        )
    if place:
        made["ssl.ca.location"] = place
    if text:
        made["ssl.ca.pem"] = text
    return made


def _key(security: dict[str, str]) -> dict[str, ClientValue]:
    made: dict[str, ClientValue] = {}
    kind = security.pop("ssl.keystore.type", None)
    place = security.pop("ssl.keystore.location", None)
    chain, key = security.pop("ssl.keystore.certificate.chain", None), security.pop("ssl.keystore.key", None)
    store_password = security.pop("ssl.keystore.password", None)
    key_password = security.pop("ssl.key.password", None)
    if not (place or chain or key):
        return made
    if kind == "PKCS12" and place:
        made["ssl.keystore.location"] = place
        password = store_password if store_password is not None else key_password
        return made if password is None else {**made, "ssl.keystore.password": password}
    if kind != "PEM":
        raise SettingError(
            f"ssl.keystore.type={kind or 'JKS'} cannot be used (JKS is Java's default). "
            + _PEM.format(kind="ssl.keystore")
            + ", a PKCS #8 key and its chain, or ssl.keystore.type=PKCS12."
        )
    if store_password is not None:
        raise SettingError("ssl.keystore.password cannot be used with PEM: write ssl.key.password.")
    if place:
        made |= {"ssl.certificate.location": place, "ssl.key.location": place}
    if chain:
        made["ssl.certificate.pem"] = chain
    if key:
        made["ssl.key.pem"] = key
    return made if key_password is None else {**made, "ssl.key.password": key_password}


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)
