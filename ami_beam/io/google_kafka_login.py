"""The login at Google's Managed Service for Apache Kafka: SASL/OAUTHBEARER with the process's own identity, no secret.

Java has Google's class for it, which is among the locked jars. This is the same for librdkafka.
"""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime
from typing import Any

HANDLER = "com.google.cloud.hosted.kafka.auth.GcpLoginCallbackHandler"
"""The value of `sasl.login.callback.handler.class` that asks for it."""
_SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
_HEADER = {"typ": "JWT", "alg": "GOOG_OAUTH2_TOKEN"}


def token(_: str) -> tuple[str, float]:
    """For `oauth_cb` of confluent-kafka: a token in the service's form, and when it expires in seconds since 1970.

    Raises google.auth's errors, which the client reports as its own. The identity is that of a VM, of a file that
    GOOGLE_APPLICATION_CREDENTIALS names, or of `gcloud auth application-default login`.
    """
    # Takes half a second to import, and few runs need it.
    import google.auth
    from google.auth.transport.requests import Request

    credentials, _project = google.auth.default(scopes=_SCOPES)
    credentials.refresh(Request())
    expires = credentials.expiry.replace(tzinfo=UTC) if credentials.expiry else datetime.now(UTC)
    claims: dict[str, Any] = {
        "exp": int(expires.timestamp()),
        "iat": int(time.time()),
        "iss": "Google",
        "sub": getattr(credentials, "service_account_email", ""),
        "scope": "kafka",
    }
    parts = (json.dumps(_HEADER), json.dumps(claims), _text(credentials.token))
    return ".".join(map(_part, parts)), float(claims["exp"])


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _part(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
