"""Who asks. Nobody need say so to look; to acknowledge an alarm one has to be known, by a proxy in front of us.

The proxy does the login. It proves that it is the proxy with a secret in a header, and says the user's name in another.
Whoever reaches the port otherwise can say any name, and is not believed.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ami_beam.beam_options import OptionError

SECRET_HEADER = "X-Ami-Beam-Proxy"
DEFAULT_USER_HEADER = "X-Forwarded-User"
LEAST_SECRET = 16
_MOST_NAME = 200
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Proxy:
    """What is known of the proxy."""

    secret: str
    user_header: str


@dataclass(frozen=True)
class Identity:
    """How requests are judged.

    Args:
      proxy: None: there is none, and nobody is known.
      hosts: names by which the page may be called beside those of this machine; a page of another name, whose owner
        points it here, must not be able to ask us things in a visitor's browser.
    """

    proxy: Proxy | None
    hosts: tuple[str, ...] = ()
    everyone_by_proxy: bool = False
    """Whether only the proxy is answered at all: so it is where others can reach the port."""

    def refusal(self, headers: Mapping[str, str]) -> str | None:
        """Why a request is not answered; None where it is."""
        host = headers.get("Host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
        if name.strip("[]").lower() not in (*_LOOPBACK, *self.hosts):
            return "This page is not served by that name. Name it with --public_host"
        if self.everyone_by_proxy and not self._is_proxy(headers):
            return "Only the reverse proxy is answered"
        return None

    def user(self, headers: Mapping[str, str]) -> str | None:
        """The user's name; None where nobody is known."""
        if self.proxy is None or not self._is_proxy(headers):
            return None
        name = headers.get(self.proxy.user_header, "").strip()
        return name[:_MOST_NAME] if name and name.isprintable() else None

    def _is_proxy(self, headers: Mapping[str, str]) -> bool:
        if self.proxy is None:
            return False
        given = headers.get(SECRET_HEADER, "")
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.proxy.secret.encode())


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_secret(path: str) -> str:
    """The proxy's secret. Raises OptionError."""
    option, example = (
        "--proxy_secret_file",
        "openssl rand -hex 32 > proxy.secret, then --proxy_secret_file=proxy.secret",
    )
    try:
        secret = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = f"the file cannot be read ({type(error).__name__})"
        raise OptionError(option, path, reason, "a file that holds the secret", example) from None
    if len(secret) < LEAST_SECRET or not secret.isascii() or not secret.isprintable():
        problem = f"the secret has to be at least {LEAST_SECRET} printable ASCII characters"
        raise OptionError(option, path, problem, "", example)
    return secret
