"""Files of settings that are secrets of Google's Secret Manager: `secretmanager://projects/P/secrets/S/versions/V`.

A process on Dataflow has no files of ours. It has an identity, which may read a secret.
"""

from __future__ import annotations

import os
import re

from apache_beam.io.filesystems import FileSystems

SCHEME = "secretmanager://"
EXAMPLE = f"{SCHEME}projects/PROJECT/secrets/ami-beam-kafka"
ENDPOINT_VARIABLE = "AMI_BEAM_SECRET_MANAGER"
"""An environment variable with another address than Google's public one, such as a private endpoint's."""
_NAME = re.compile(r"projects/[A-Za-z0-9:.-]+/secrets/[A-Za-z0-9_-]{1,255}(/versions/(?:latest|[0-9]+))?")


class SecretNameError(ValueError):
    """A path that names no secret; it holds none."""


def is_secret(path: str) -> bool:
    """Whether the path is of a secret, well spelt or not."""
    return path.startswith(SCHEME)


def secret_name(path: str) -> str:
    """The resource name with its version, the latest where the path has none. Raises SecretNameError."""
    name = path.removeprefix(SCHEME)
    match = _NAME.fullmatch(name)
    if match is None:
        raise SecretNameError(f"is no name of a secret; write {EXAMPLE} or {EXAMPLE}/versions/7")
    return name if match[1] else f"{name}/versions/latest"


def read(path: str) -> bytes:
    """What a file or a secret holds. Raises what its file system or Secret Manager's client raises."""
    if not is_secret(path):
        with FileSystems.open(path) as stream:
            content: bytes = stream.read()
            return content
    # Takes a second to import, and few runs need it.
    from google.api_core.client_options import ClientOptions
    from google.cloud.secretmanager import SecretManagerServiceClient

    options = ClientOptions(api_endpoint=os.environ.get(ENDPOINT_VARIABLE) or None)
    client = SecretManagerServiceClient(client_options=options, transport="rest")
    with client:
        held: bytes = client.access_secret_version(name=secret_name(path), timeout=30).payload.data
        return held
