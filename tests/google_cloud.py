"""What a launch needs of Google Cloud, on this machine: Dataflow's jobs, Cloud Storage, Secret Manager, tokens.

One server that speaks the needed part of their JSON APIs to the real clients: Beam's own, google-cloud-storage,
google-cloud-dataflow-client, google-cloud-secret-manager, google-auth. `fake-gcs-server` would have to be compiled from
the Go proxy in every test run, and the emulators on PyPI bring servers and versions of their own into the lock; neither
speaks Dataflow. Requests that it does not know are answered with 501 and kept in `unknown`, which tests hold empty.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import google_crc32c
import pytest

PROJECT, REGION, BUCKET = "utility-ami", "europe-west4", "utility-ami-dataflow"
ACCOUNT = f"ami-beam-worker@{PROJECT}.iam.gserviceaccount.com"
TOKEN = "ya29.token-of-the-metadata-server"


@dataclass
class GoogleCloud:
    """A server on a port of its own; `with` starts and stops it."""

    objects: dict[str, bytes] = field(default_factory=dict)
    """Of the bucket, by name."""
    secrets: dict[str, bytes] = field(default_factory=dict)
    """By `projects/…/secrets/…/versions/…`."""
    jobs: list[dict[str, Any]] = field(default_factory=list)
    """As they were created, with an id and the state RUNNING."""
    launches: list[dict[str, Any]] = field(default_factory=list)
    """Requests to launch a flex template, as they came."""
    unknown: list[str] = field(default_factory=list)
    authorized: set[str] = field(default_factory=set)
    """Services that were asked with the token of the metadata server."""
    _uploads: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        cloud = self

        class Handler(_Handler):
            def setup(self) -> None:
                super().setup()
                self.cloud = cloud

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that bring Google's clients here, with the identity that a VM of theirs has."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "GCE_METADATA_HOST": self.address,
            "GCE_METADATA_IP": self.address,
            "GOOGLE_CLOUD_PROJECT": PROJECT,
            "NO_GCE_CHECK": "false",
            "AMI_BEAM_SECRET_MANAGER": self.url,
        }

    def take_over(self, patch: pytest.MonkeyPatch) -> None:
        """Bring the clients of this process here, whichever were imported, or have found an identity, before."""
        for name, value in self.environment.items():
            patch.setenv(name, value)
        patch.setattr("google.auth.compute_engine._metadata._GCE_METADATA_HOST", self.address)
        patch.setattr("apache_beam.internal.gcp.auth._Credentials._credentials_init", False)

    @property
    def dataflow_endpoint(self) -> str:
        """For `--dataflow_endpoint`: Beam takes a port, and speaks REST, with the host of this name only."""
        return f"http://localhost:{self.address.rpartition(':')[2]}"


class _Handler(BaseHTTPRequestHandler):
    cloud: GoogleCloud
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(parts.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        for pattern, answer in _ROUTES[method]:
            if match := re.fullmatch(pattern, path):
                answer(self, match, query, body)
                return
        self.cloud.unknown.append(f"{method} {self.path}")
        self._json({"error": {"code": 501, "message": f"{method} {self.path} is not known here"}}, 501)

    def _bytes(self, content: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _json(self, content: Any, code: int = 200, **headers: str) -> None:
        self._bytes(json.dumps(content).encode(), code, Content_Type="application/json", **headers)

    def _checked(self, service: str) -> None:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            self.cloud.authorized.add(service)

    # --- tokens ------------------------------------------------------------------------------------------------------

    def _metadata(self, match: re.Match[str], query: dict[str, str], body: bytes) -> None:
        flavor = {"Metadata_Flavor": "Google"}
        path = match[1]
        if path.endswith("/token"):
            self._json({"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}, **flavor)
        elif path.endswith(("service-accounts/default/", f"service-accounts/{ACCOUNT}/")):
            self._json({"email": ACCOUNT, "scopes": [], "aliases": ["default"]}, **flavor)
        elif path.endswith("/email"):
            self._bytes(ACCOUNT.encode(), Content_Type="text/plain", **flavor)
        elif path.endswith("project/project-id"):
            self._bytes(PROJECT.encode(), Content_Type="text/plain", **flavor)
        elif path.endswith(("universe/universe-domain", "universe/universe_domain")):
            self._bytes(b"googleapis.com", Content_Type="text/plain", **flavor)
        else:
            self._bytes(b"", 200 if not path.strip("/") else 404, **flavor)

    # --- Cloud Storage -----------------------------------------------------------------------------------------------

    def _resource(self, name: str) -> dict[str, Any]:
        return {
            "kind": "storage#object", "name": name, "bucket": BUCKET, "size": str(len(self.cloud.objects[name])),
            "generation": "1", "metageneration": "1", "updated": "2026-03-03T00:00:00.000Z",
            "crc32c": base64.b64encode(google_crc32c.Checksum(self.cloud.objects[name]).digest()).decode(),
            "md5Hash": base64.b64encode(hashlib.md5(self.cloud.objects[name]).digest()).decode(),
            "contentType": "application/octet-stream", "id": f"{BUCKET}/{name}/1", "selfLink": "",
        }  # fmt: skip

    def _missing(self) -> None:
        self._json({"error": {"code": 404, "message": "Not Found"}}, 404)

    def _bucket(self, match: re.Match[str], query: dict[str, str], body: bytes) -> None:
        self._checked("storage")
        if match[1] != BUCKET:
            self._missing()
        else:
            no_soft_delete = {"retentionDurationSeconds": "0", "effectiveTime": "2026-03-03T00:00:00.000Z"}
            self._json(
                {
                    "kind": "storage#bucket",
                    "name": BUCKET,
                    "location": REGION.upper(),
                    "softDeletePolicy": no_soft_delete,
                }
            )

    def _list(self, match: re.Match[str], query: dict[str, str], body: bytes) -> None:
        names = sorted(name for name in self.cloud.objects if name.startswith(query.get("prefix", "")))
        self._json({"kind": "storage#objects", "items": [self._resource(name) for name in names]})

    def _object(self, match: re.Match[str], query: dict[str, str], body: bytes) -> None:
        name = match[2]
        if match[1] != BUCKET or name not in self.cloud.objects:
            self._missing()
        elif query.get("alt") != "media":
            self._json(self._resource(name))
        else:
            content = self.cloud.objects[name]
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked is None:
                self._bytes(content)
                return
            first = int(asked[1])
            last = min(int(asked[2] or len(content)), len(content) - 1)
            if first >= len(content):
                self._bytes(b"", 416, Content_Range=f"bytes */{len(content)}")
                return
            part = f"bytes {first}-{last}/{len(content)}"
            self._bytes(content[first : last + 1], 206, Content_Range=part)

    def _delete(self, match: re.Match[str], query: dict[str, str], body: bytes) -> None:
        self.cloud.objects.pop(match[2], None)
        self._bytes(b"", 204)

    def _begin(self, match: re.Match[str], query: dict[str, str], body: bytes) -> None:
        self._checked("storage")
        if match[1] != BUCKET:
            self._missing()
        elif query["uploadType"] == "multipart":
            boundary = self.headers["Content-Type"].split("boundary=")[1].strip("\"'")
            _, told, content, _ = body.split(b"--" + boundary.encode())
            # Lines end as the client has them: gcloud's without a carriage return.
            name = json.loads(re.split(rb"\r?\n\r?\n", told, maxsplit=1)[1])["name"]
            held = re.split(rb"\r?\n\r?\n", content, maxsplit=1)[1]
            self.cloud.objects[name] = re.sub(rb"\r?\n\Z", b"", held)
            self._json(self._resource(name))
        else:
            name = json.loads(body or b"{}").get("name") or query["name"]
            number = str(len(self.cloud._uploads))
            self.cloud._uploads[number] = (name, b"")
            self._json({}, Location=f"{self.cloud.url}/upload/{number}")

    def _go_on(self, match: re.Match[str], query: dict[str, str], body: bytes) -> None:
        name, before = self.cloud._uploads[match[1]]
        content = before + body
        self.cloud._uploads[match[1]] = (name, content)
        if self.headers["Content-Range"].endswith("/*"):
            self._bytes(b"", 308, Range=f"bytes=0-{len(content) - 1}")
        else:
            self.cloud.objects[name] = content
            self._json(self._resource(name))

    # --- Dataflow ----------------------------------------------------------------------------------------------------

    def _create(self, match: re.Match[str], query: dict[str, str], body: bytes) -> None:
        self._checked("dataflow")
        job = json.loads(body)
        job |= {
            "id": f"2026-03-03_00_00_00-{len(self.cloud.jobs) + 1}", "currentState": "JOB_STATE_RUNNING",
            "projectId": match[1], "location": match[2],
        }  # fmt: skip
        self.cloud.jobs.append(job)
        self._json({name: value for name, value in job.items() if name != "environment"})

    def _launch(self, match: re.Match[str], query: dict[str, str], body: bytes) -> None:
        self.cloud.launches.append(json.loads(body))
        asked = self.cloud.launches[-1]["launchParameter"]
        job = {"id": "2026-03-03_00_00_00-0", "name": asked["jobName"], "projectId": match[1], "location": match[2]}
        self._json({"job": job})

    def _jobs(self, match: re.Match[str], query: dict[str, str], body: bytes) -> None:
        shown = ("id", "name", "currentState", "projectId", "location")
        self._json({"jobs": [{name: job[name] for name in shown} for job in self.cloud.jobs]})

    def _job(self, match: re.Match[str], query: dict[str, str], body: bytes) -> None:
        (job,) = [each for each in self.cloud.jobs if each["id"] == match[3]]
        if body:
            job["currentState"] = json.loads(body)["requestedState"]
        self._json({name: job[name] for name in ("id", "name", "currentState", "projectId", "location")})

    def _messages(self, match: re.Match[str], query: dict[str, str], body: bytes) -> None:
        self._json({"jobMessages": []})

    def _metrics(self, match: re.Match[str], query: dict[str, str], body: bytes) -> None:
        self._json({"metrics": []})

    # --- Secret Manager ----------------------------------------------------------------------------------------------

    def _access(self, match: re.Match[str], query: dict[str, str], body: bytes) -> None:
        self._checked("secretmanager")
        if match[1] not in self.cloud.secrets:
            self._json(
                {"error": {"code": 404, "message": f"Secret [{match[1]}] not found.", "status": "NOT_FOUND"}}, 404
            )
            return
        data = base64.b64encode(self.cloud.secrets[match[1]]).decode()
        self._json({"name": match[1], "payload": {"data": data}})


_ROUTES: dict[str, list[tuple[str, Any]]] = {
    "GET": [
        (r"/computeMetadata/v1/(.*)", _Handler._metadata),
        (r"/()", _Handler._metadata),
        (r"(?:/storage/v1)?/b/([^/]+)", _Handler._bucket),
        (r"(?:/storage/v1)?/b/([^/]+)/o", _Handler._list),
        (r"(?:/download)?(?:/storage/v1)?/b/([^/]+)/o/(.+)", _Handler._object),
        (r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs", _Handler._jobs),
        (r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs/([^/]+)", _Handler._job),
        (r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs/([^/]+)/messages", _Handler._messages),
        (r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs/([^/]+)/metrics", _Handler._metrics),
        (r"/v1/(projects/[^/]+/secrets/[^/]+/versions/[^/]+):access", _Handler._access),
    ],
    "POST": [
        (r"/v1b3/projects/([^/]+)/locations/([^/]+)/flexTemplates:launch", _Handler._launch),
        (r"/upload(?:/storage/v1)?/b/([^/]+)/o", _Handler._begin),
        (r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs", _Handler._create),
    ],
    "PUT": [
        (r"/upload/(\d+)", _Handler._go_on),
        (r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs/([^/]+)", _Handler._job),
    ],
    "DELETE": [(r"(?:/storage/v1)?/b/([^/]+)/o/(.+)", _Handler._delete)],
}
