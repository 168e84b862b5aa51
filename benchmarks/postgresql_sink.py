"""What the PostgreSQL sink costs: rows a second and CPU, against a server of its own that waits for its disk.

python -m benchmarks.postgresql_sink --rows=500000 --batch=5000 --writers=1
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path

from ami_beam.codecs.json_outputs import SUMMARY_TOPIC, summary_json
from ami_beam.instants import MICROS_PER_MINUTE
from ami_beam.io.postgresql_sink import UpsertDoFn
from ami_beam.local.postgresql_server import PostgresqlServer
from ami_beam.postgresql.connection import Database
from ami_beam.postgresql.migration import migrate
from ami_beam.records import KeyedRecords, SummaryRow

BEGIN = 1_772_496_000_000_000
WINDOW = 15 * MICROS_PER_MINUTE
TRANSFORMERS = 50_000


def record(number: int, later: int) -> bytes:
    """A row of the summary, as a network of so many transformers gives them."""
    end = BEGIN + number // TRANSFORMERS * WINDOW
    name = number % TRANSFORMERS
    return summary_json(
        SummaryRow(
            f"TRF-{name:06}", f"FDR-{name % 500:04}", end - WINDOW, end, 12.345678, 12.5, 0.154322, 47 + later,
            231.123456, 228.4, 233.9, 2, 0, 0, end + later * 1_000_000, later, 0, 0, 45,
        )
    )  # fmt: skip


def server_cpu(server: PostgresqlServer) -> float:
    """Seconds of the server's processes that live, and of those of its own that have ended."""
    tick, total = os.sysconf("SC_CLK_TCK"), 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(path.parent.name) == server.pid or int(fields[1]) == server.pid:
            total += sum(map(int, fields[11:15] if int(path.parent.name) == server.pid else fields[11:13]))
    return total / tick


def write(database: Database, records: list[bytes], batch: int, writers: int) -> None:
    """As many steps at once, each with its share in bundles of `batch` rows."""

    def share(begin: int) -> None:
        step = UpsertDoFn(SUMMARY_TOPIC, database, 60.0)
        step.setup()
        for number in range(begin * batch, len(records), writers * batch):
            step.start_bundle()
            values = records[number : number + batch]
            step.process(KeyedRecords([b""] * len(values), values))
            step.finish_bundle()
        step.teardown()

    threads = [threading.Thread(target=share, args=(begin,)) for begin in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    """Print a line for inserts, for revisions of every row, and for rows that are there already."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--batch", type=int, default=5_000, help="rows of a bundle")
    parser.add_argument("--writers", type=int, default=1, help="steps at once in this process")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, PostgresqlServer(durable=True) as server:
        secret = Path(folder) / "secret"
        secret.write_text(f"password={server.password}\n")
        database = Database(server.create_database("bench"), str(secret), "ami")
        with database.connect() as connection:
            migrate(connection, "ami")
        for name, later in (("insert", 0), ("revise", 1), ("repeat", 1)):
            records = [record(number, later) for number in range(given.rows)]
            ours, theirs, begun = time.process_time(), server_cpu(server), time.monotonic()
            write(database, records, given.batch, given.writers)
            seconds = time.monotonic() - begun
            # A session's time is counted until it has ended.
            per_million = 1_000_000 / given.rows
            ours, theirs = time.process_time() - ours, server_cpu(server) - theirs
            print(
                f"{name}: {given.rows / seconds:,.0f} rows/s, CPU-s per million rows: sink {ours * per_million:.1f},"
                f" server {theirs * per_million:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
