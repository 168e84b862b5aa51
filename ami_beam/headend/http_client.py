"""One request and its answer: a page that can be read, or what is wrong, within a time and a size that are bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit

import msgspec
import requests
from urllib3.exceptions import ReadTimeoutError

from ami_beam.headend.authentication import AuthenticationError, Login, login_of
from ami_beam.headend.health import SourceHealth
from ami_beam.headend.json_paths import PathError, Place, put_at, records_of
from ami_beam.headend.pacing import TokenBucket, backoff, http_date, retry_after
from ami_beam.headend.source_file import Source

_PIECE = 1 << 16
_decode = msgspec.json.Decoder(float_hook=Decimal).decode


@dataclass(frozen=True)
class Question:
    """What is asked: the parameters besides the source's own, or the address of the next page."""

    parameters: Mapping[str, str | int] = field(default_factory=dict)
    link: str | None = None


@dataclass(frozen=True)
class Page:
    """An answer of the shape that was expected."""

    document: Any
    records: list[Place]
    headers: Mapping[str, str]
    url: str


class PageError(RuntimeError):
    """A page that could not be had in all its attempts."""

    def __init__(self, reason: str, detail: str, body: bytes, url: str, status: int | None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.body = body
        self.url = url
        self.status = status
        self.gone = status == 404


class Stopping(Exception):
    """The adapter is asked to end, and waits no longer."""


class HeadEnd:
    """Asks one source's API, never faster than it may, and again with back-off where that can help.

    Redirects are not followed, since they would carry the credentials elsewhere; nor are links to another host.
    """

    def __init__(self, source: Source, health: SourceHealth, stop: threading.Event) -> None:
        self._source = source
        self._health = health
        self._stop = stop
        self._session = requests.Session()
        self._login: Login = login_of(source, self._session)
        self._bucket = TokenBucket(source.request.rate, source.request.burst)
        self._first_backoff = source.backoff / 1e6
        request = source.request
        if request.ca_file is not None:
            self._session.verify = request.ca_file
        if request.certificate_file is not None:
            key = request.key_file
            self._session.cert = request.certificate_file if key is None else (request.certificate_file, key)

    def close(self) -> None:
        self._session.close()

    def page(self, question: Question, attempts: int | None = None) -> Page:
        """The page. Raises PageError after the last attempt, AuthenticationError, and Stopping.

        Too many requests (429) is no attempt: the head-end is well, and asks for patience.
        """
        attempts = self._source.request.attempts if attempts is None else attempts
        failed = throttled = 0
        while True:
            try:
                return self._once(question)
            except _Throttled as error:
                throttled += 1
                self._health.throttled()
                self.wait(backoff(throttled, self._first_backoff) if error.seconds is None else error.seconds)
            except _Failed as error:
                failed += 1
                self._health.failed_request(error.reason)
                if failed >= attempts or error.reason == "HTTP_404":
                    raise PageError(error.reason, error.detail, error.body, error.url, error.status) from None
                seconds = backoff(failed, self._first_backoff)
                self.wait(seconds if error.seconds is None else max(seconds, error.seconds))

    def wait(self, seconds: float) -> None:
        """Raises Stopping when the adapter is asked to end meanwhile."""
        if self._stop.wait(seconds):
            raise Stopping

    def _once(self, question: Question) -> Page:
        self.wait(self._bucket.delay())
        url = self.address(question)
        answer, body = self._exchange(question, url)
        if answer.status_code == 401 and self._login.refused():
            self.wait(self._bucket.delay())
            answer, body = self._exchange(question, url)
        status, shown = answer.status_code, self._shown(answer.url or url)
        self._measure_clock(answer.headers)
        if status in (401, 403):
            raise AuthenticationError(f"{shown} answers {status}: check [authentication] and what the login may read")
        wanted = retry_after(answer.headers, time.time())
        if status == 429:
            raise _Throttled(wanted)
        if 300 <= status < 400:
            elsewhere = self._shown(urljoin(url, answer.headers.get("Location", "")))
            raise _Failed(f"HTTP_{status}", f"it redirects to {elsewhere}, write that address", body, shown, status)
        if status != 200:
            raise _Failed(f"HTTP_{status}", f"the head-end answers {status}", body, shown, status, wanted)
        try:
            document = _decode(body)
        except (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError) as error:
            raise _Failed("INVALID_JSON", f"the answer is no JSON: {error}", body, shown, status) from None
        try:
            records = list(records_of(document, self._source.records))
        except PathError as error:
            raise _Failed(
                "WRONG_SHAPE", f"the answer has no records where they should be: {error}", body, shown, status
            ) from None
        return Page(document, records, answer.headers, shown)

    def _shown(self, url: str) -> str:
        return shown_url(url, getattr(self._source.authentication, "parameter", None))

    def address(self, question: Question) -> str:
        """Where the question goes. Raises a failure for a link to another host, which must not get our credentials."""
        if question.link is None:
            return self._source.url
        url = urljoin(self._source.url, question.link)
        ours, theirs = urlsplit(self._source.url), urlsplit(url)
        if (ours.scheme, ours.hostname, ours.port) != (theirs.scheme, theirs.hostname, theirs.port):
            raise _Failed(
                "LINK_ELSEWHERE", f"the next page is at another host, {theirs.hostname}", b"", self._shown(url), None
            )
        return url

    def _exchange(self, question: Question, url: str) -> tuple[requests.Response, bytes]:
        """The answer and its body. Raises _Failed where there is none in time."""
        source, request = self._source, self._source.request
        query: dict[str, Any] = {} if question.link is not None else dict(request.query)
        body: dict[str, Any] | None = None
        if request.method == "POST":
            body = msgspec.json.decode(msgspec.json.encode(request.body))
        if request.parameters_in == "body":
            assert body is not None
            for name, value in question.parameters.items():
                put_at(body, name, value)
        else:
            query |= question.parameters
        until = time.monotonic() + source.timeout / 1e6
        shown = self._shown(url)
        self._health.requested()
        try:
            with self._session.request(
                request.method, url, params=query, json=body, stream=True, allow_redirects=False,
                headers={"Accept": "application/json", **request.headers}, auth=self._login.auth(),
                timeout=(source.connect_timeout / 1e6, source.timeout / 1e6),
            ) as answer:  # fmt: skip
                content = self._body(answer, until)
        except (requests.RequestException, OSError) as error:
            raise _Failed(_kind_of(error), _plain(error), b"", shown, None) from None
        return answer, content

    def _body(self, answer: requests.Response, until: float) -> bytes:
        """The whole body. A head-end that sends a byte now and then does not keep us."""
        limit = self._source.request.max_page_mb << 20
        content = bytearray()
        for piece in answer.iter_content(_PIECE):
            content += piece
            shown = self._shown(answer.url)
            if len(content) > limit:
                problem = f"the answer is longer than max_page_mb = {self._source.request.max_page_mb}"
                raise _Failed("TOO_LONG", problem, bytes(content[:_PIECE]), shown, answer.status_code)
            if time.monotonic() > until:
                problem = f"the answer is not complete after {self._source.timeout / 1e6:g} s"
                raise _Failed("TIMEOUT", problem, bytes(content[:_PIECE]), shown, answer.status_code)
            if self._stop.is_set():
                raise Stopping
        return bytes(content)

    def _measure_clock(self, headers: Mapping[str, str]) -> None:
        theirs = http_date(headers.get("Date", ""))
        if theirs is not None:
            self._health.clock_skew(theirs - time.time())


class _Failed(Exception):
    """One attempt."""

    def __init__(
        self, reason: str, detail: str, body: bytes, url: str, status: int | None, seconds: float | None = None
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.body = body
        self.url = url
        self.status = status
        self.seconds = seconds


class _Throttled(Exception):
    def __init__(self, seconds: float | None) -> None:
        super().__init__()
        self.seconds = seconds


def shown_url(url: str, secret: str | None = None) -> str:
    """The address as it may be logged and published: of its query only what looks like no secret."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    kept = [
        f"{name}={value if name != secret and _is_plain(name, value) else '…'}"
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    return f"{parts.scheme}://{host}{parts.path}" + (f"?{'&'.join(kept)}" if kept else "")


def _is_plain(name: str, value: str) -> bool:
    hidden = ("key", "token", "secret", "sig", "auth", "password", "credential", "code")
    return not any(word in name.lower() for word in hidden) and len(value) <= 64


def _kind_of(error: Exception) -> str:
    # While a body is read, requests says ConnectionError for a time-out, too.
    if isinstance(error, requests.Timeout) or any(isinstance(each, ReadTimeoutError) for each in error.args):
        return "TIMEOUT"
    if isinstance(error, requests.exceptions.ChunkedEncodingError | requests.exceptions.ContentDecodingError):
        return "CUT_OFF"
    if isinstance(error, requests.exceptions.SSLError):
        return "TLS"
    return "NO_CONNECTION"


def _plain(error: Exception) -> str:
    """What happened, without the address, which the words of requests repeat with its query."""
    words = {
        "TIMEOUT": "no answer in time",
        "CUT_OFF": "the answer was cut off",
        "TLS": "no TLS connection: the certificate, or the authority that it is of, is not trusted",
        "NO_CONNECTION": "no connection",
    }
    return f"{words[_kind_of(error)]} ({type(error).__name__})"
