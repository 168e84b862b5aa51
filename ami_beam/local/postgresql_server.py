"""A PostgreSQL of its own for tests and measurements, on loopback, empty at the start, gone at the end.

The programs are those of the machine, such as Debian's package postgresql; nothing is fetched. The server refuses to
run as root: then it runs as the user postgres, or else nobody.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from ami_beam.local import process

_START_SECONDS = 60.0
MISSING = "needs PostgreSQL 15 or newer: apt install postgresql, or name its programs' folder in AMI_BEAM_POSTGRESQL"


def programs() -> Path | None:
    """The folder of initdb, postgres and psql in the newest version there is; None where it is not installed.

    AMI_BEAM_POSTGRESQL names it. Debian keeps it off the path.
    """
    named = os.environ.get("AMI_BEAM_POSTGRESQL")
    on_path = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    places = [Path(named)] if named else [*debian, *([Path(on_path).resolve().parent] if on_path else [])]
    whole = (place for place in places if all((place / name).is_file() for name in ("initdb", "postgres", "psql")))
    return next(whole, None)


class PostgresqlServer:
    """`with PostgresqlServer() as server:` gives a server whose superuser is ami_test, and which asks for its password.

    Args:
      durable: whether it waits for the disk, as in production. A server that is killed loses nothing either way; a
        machine that loses its power would.
      logical: whether its changes can be followed (`wal_level=logical`).
    """

    USER = "ami_test"

    def __init__(self, durable: bool = False, logical: bool = False) -> None:
        found = programs()
        if found is None:
            raise process.StartError(MISSING)
        self._programs = found
        self._durable = durable
        self._logical = logical
        self.password = secrets.token_urlsafe(16)
        self.port = 0
        self._directory: process.TemporaryDirectory | None = None
        self._process: process.ChildProcess | None = None

    def __enter__(self) -> Self:
        self._directory = process.TemporaryDirectory("ami-beam-postgresql-")
        try:
            self._make()
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._directory is not None:
            self._directory.remove()

    @property
    def psql(self) -> Path:
        """The program psql."""
        return self._programs / "psql"

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        assert self._process is not None
        return self._process.pid

    @property
    def passfile(self) -> Path:
        """With the superuser's password, for PGPASSFILE."""
        return self._folder / "pgpass"

    def uri(self, database: str = "postgres", user: str = USER) -> str:
        """Of a database, without a password."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """As the superuser, in autocommit mode."""
        return psycopg.connect(self.uri(database), password=self.password, autocommit=True)

    def create_database(self, name: str) -> str:
        """An empty database. Returns its URI."""
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.uri(name)

    def start(self) -> None:
        """Returns when it answers. For the first time, or again after `stop` or `kill`."""
        flags = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": 40,
            "fsync": "on" if self._durable else "off",
            "wal_level": "logical" if self._logical else "replica",
        }
        words = [word for name, value in flags.items() for word in ("-c", f"{name}={value}")]
        command: list[str | Path] = [*_as_other_user(), self._programs / "postgres", "-D", self._data, *words]
        self._process = process.ChildProcess("PostgreSQL", command, self._folder / "server.log")
        self._process.wait_until(self._answers, _START_SECONDS)

    def stop(self) -> None:
        """As an administrator does for a restart: sessions are cut off, and nothing that was committed is lost."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """As a crash: the server recovers from its log when it starts again."""
        self._end(signal.SIGKILL)

    def log(self) -> str:
        """What it has logged."""
        return (self._folder / "server.log").read_text(errors="replace")

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            # To the postmaster alone: it ends the others, and they end without it.
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)
            deadline = time.monotonic() + 20
            while self._process.is_alive() and time.monotonic() < deadline:
                time.sleep(0.05)
            self._process.stop()
            self._process = None

    @property
    def _folder(self) -> Path:
        assert self._directory is not None
        return self._directory.path

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _make(self) -> None:
        (self.port,) = process.free_ports(1)
        owner = _other_user()
        self._data.mkdir(mode=0o700)
        secret = self._data.with_name("password")
        secret.write_text(self.password)
        self.passfile.write_text(f"127.0.0.1:{self.port}:*:{self.USER}:{self.password}\n")
        for path in (secret, self.passfile):
            path.chmod(0o600)
        if owner is not None:
            self._folder.chmod(0o755)
            for path in (self._data, secret):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        flags = [f"--username={self.USER}", "--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8"]
        command: list[str | Path] = [*_as_other_user(), self._programs / "initdb", "-D", self._data]
        command += ["--locale=C", "--no-sync", *flags]
        process.ChildProcess("initdb", command, self._folder / "initdb.log").wait_until_success(_START_SECONDS)
        secret.unlink()

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True


def _as_other_user() -> list[str]:
    """What stands before a command of the server's."""
    owner = _other_user()
    if owner is None:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise process.StartError(
            "PostgreSQL does not run as root, and there is no setpriv (util-linux) that changes it"
        )
    # The kernel forgets the signal of a parent's death when the user changes.
    ids = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups", "--pdeathsig=KILL"]
    return [setpriv, *ids]


def _other_user() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise process.StartError("PostgreSQL does not run as root, and there is no user postgres or nobody")
