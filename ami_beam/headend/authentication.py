"""How requests say who asks: no secret is in the source's file, and none in an error or a log."""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path
from typing import Protocol

import msgspec
import requests
from requests.auth import AuthBase

from ami_beam.headend.source_file import Basic, NoAuthentication, OAuth2, Source, Token

_EARLY = 0.1
"""A token is renewed when this part of its life is left, and at most a minute before its end."""


class AuthenticationError(RuntimeError):
    """The head-end, or its authorization server, refuses us, or a secret cannot be read: says which and where."""


class Login(Protocol):
    """Puts the credentials into requests."""

    def auth(self) -> AuthBase: ...

    def refused(self) -> bool:
        """The head-end has answered 401: whether it is worth asking again at once, with something new."""


class _Header(AuthBase):
    """One header; and always something, so that no .netrc is asked for a login."""

    def __init__(self, name: str | None, value: str) -> None:
        self._name = name
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._name is not None:
            request.headers[self._name] = self._value
        return request


class _Parameter(AuthBase):
    """One parameter of the query."""

    def __init__(self, name: str, value: str) -> None:
        self._name = name
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        assert request.url is not None
        request.prepare_url(request.url, {self._name: self._value})
        return request


def login_of(source: Source, session: requests.Session) -> Login:
    """What the source's authentication asks for. Secrets are read when they are needed, so that they may change."""
    authentication = source.authentication
    if isinstance(authentication, OAuth2):
        return _ClientCredentials(authentication, source, session)
    return _Fixed(authentication)


def secret_of(file: str | None, variable: str | None, key: str) -> str:
    """The secret. Raises AuthenticationError with the place, never with what is there."""
    if file is not None:
        try:
            secret = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise AuthenticationError(f"{key}: {file} cannot be read ({type(error).__name__})") from None
        if not secret:
            raise AuthenticationError(f"{key}: {file} is empty")
    else:
        assert variable is not None
        secret = os.environ.get(variable, "")
        if not secret:
            raise AuthenticationError(f"{key}: there is no environment variable {variable}")
    if not secret.isprintable():
        raise AuthenticationError(f"{key}: has more than one line, or what is no text")
    return secret


class _Fixed:
    """The same with every request, until the file has another secret."""

    def __init__(self, authentication: NoAuthentication | Basic | Token) -> None:
        self._authentication = authentication

    def auth(self) -> AuthBase:
        given = self._authentication
        if isinstance(given, Basic):
            secret = secret_of(given.password_file, given.password_env, "authentication.password")
            word = base64.b64encode(f"{given.username}:{secret}".encode()).decode()
            return _Header("Authorization", f"Basic {word}")
        if isinstance(given, Token):
            secret = secret_of(given.token_file, given.token_env, "authentication.token")
            if given.parameter is not None:
                return _Parameter(given.parameter, secret)
            return _Header(given.header, f"{given.scheme} {secret}".strip())
        return _Header(None, "")

    def refused(self) -> bool:
        return False


class _Granted(msgspec.Struct):
    """What an authorization server answers (RFC 6749, 5.1)."""

    access_token: str
    token_type: str = "Bearer"
    expires_in: float = 3600.0


class _ClientCredentials:
    """An access token, renewed before it ends and when the head-end does not take it any more."""

    def __init__(self, authentication: OAuth2, source: Source, session: requests.Session) -> None:
        self._given = authentication
        self._source = source
        self._session = session
        self._token = ""
        self._until = 0.0

    def auth(self) -> AuthBase:
        if time.monotonic() >= self._until:
            self._renew()
        return _Header("Authorization", f"Bearer {self._token}")

    def refused(self) -> bool:
        # Once for each token: a new one that is refused as well is not the token's fault.
        had, self._until = self._until, 0.0
        return had > 0.0

    def _renew(self) -> None:
        given = self._given
        secret = secret_of(given.client_secret_file, given.client_secret_env, "authentication.client_secret")
        form = {"grant_type": "client_credentials"}
        if given.scope is not None:
            form["scope"] = given.scope
        auth: AuthBase = _Header(None, "")
        if given.credentials_in == "body":
            form |= {"client_id": given.client_id, "client_secret": secret}
        else:
            word = base64.b64encode(f"{given.client_id}:{secret}".encode()).decode()
            auth = _Header("Authorization", f"Basic {word}")
        seconds = self._source.connect_timeout / 1e6, self._source.timeout / 1e6
        answer = self._session.post(
            given.token_url, data=form, auth=auth, timeout=seconds, allow_redirects=False,
            headers={"Accept": "application/json"},
        )  # fmt: skip
        if answer.status_code >= 500 or answer.status_code == 429:
            raise requests.ConnectionError(f"{given.token_url} answers {answer.status_code}")
        if answer.status_code != 200:
            raise AuthenticationError(
                f"{given.token_url} gives no token: it answers {answer.status_code}{_reason(answer.content)}; check"
                " client_id, the secret and scope"
            )
        try:
            granted = msgspec.json.decode(answer.content, type=_Granted)
        except msgspec.DecodeError as error:
            raise AuthenticationError(f"{given.token_url} answers with no token: {error}") from None
        life = max(granted.expires_in, 1.0)
        self._token = granted.access_token
        self._until = time.monotonic() + life - min(60.0, life * _EARLY)


def _reason(content: bytes) -> str:
    """The error code of RFC 6749, 5.2; nothing else of the answer, which may repeat what was sent."""
    try:
        error = msgspec.json.decode(content)["error"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""
    known = {
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    }
    return f" ({error})" if error in known else ""


def check_secrets(source: Source) -> None:
    """Raises AuthenticationError where a secret that is named cannot be read. Nobody is asked anything."""
    given = source.authentication
    if isinstance(given, OAuth2):
        secret_of(given.client_secret_file, given.client_secret_env, "authentication.client_secret")
    else:
        _Fixed(given).auth()
