"""The tables of the PostgreSQL sink on a real server: made, found lacking, brought up to date, and by whom."""

from __future__ import annotations

import itertools
import re
import threading
from pathlib import Path

import psycopg
import pytest

from ami_beam import run as command
from ami_beam.local.postgresql_server import MISSING, PostgresqlServer, programs
from ami_beam.postgresql.__main__ import main
from ami_beam.postgresql.connection import Database, PostgresqlError
from ami_beam.postgresql.migration import all_statements, changes, check, migrate
from ami_beam.postgresql.tables import TABLES, VIEWS
from tests.postgresql import SUMMARY, Sink, new_database, psql, rows, summary

pytestmark = [pytest.mark.processes, pytest.mark.skipif(programs() is None, reason=MISSING)]
DOCUMENT = Path(__file__).parents[1] / "docs" / "postgresql.md"
_names = (f"migration{number}" for number in itertools.count())


@pytest.fixture
def database(postgresql_server: PostgresqlServer, tmp_path: Path) -> Database:
    return new_database(postgresql_server, next(_names), tmp_path)


def options(database: Database) -> list[str]:
    words = [f"--postgresql={database.conninfo}", f"--postgresql_schema={database.schema}"]
    return [*words, f"--postgresql_config_file={database.config_file}"] if database.config_file else words


def change(database: Database, statement: str) -> None:
    with database.connect() as connection:
        connection.execute(statement.encode())


def test_a_migration_is_done_once_and_noted(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(
        database, "SELECT relname FROM pg_class WHERE relnamespace = 'ami'::regnamespace AND relkind IN ('r', 'v')"
    )
    assert {name for (name,) in found} == {"migration", *(each.name for each in (*TABLES, *VIEWS))}
    assert main(["migrate", *options(database)]) == 0
    assert "Nothing is lacking" in capsys.readouterr().out
    assert main(["check", *options(database)]) == 0
    ((number, statements),) = rows(database, "SELECT number, statements FROM ami.migration")
    assert (number, statements) == (1, all_statements("ami"))
    comments = rows(
        database, "SELECT obj_description('ami.summary'::regclass), obj_description('ami.config'::regclass)"
    )
    assert all("ami." in each for each in comments[0])


def test_the_printed_statements_are_the_migration(
    postgresql_server: PostgresqlServer, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sql`, run by psql, gives a schema that lacks nothing but the note that it was migrated."""
    uri = postgresql_server.create_database(next(_names))
    assert main(["sql", "--postgresql_schema=by_hand"]) == 0
    psql(postgresql_server, uri, capsys.readouterr().out)
    by_hand = Database(uri, database.config_file, "by_hand")
    with by_hand.connect() as connection:
        assert not [each.lacks for each in changes(connection, "by_hand") if each.needed]
    check(by_hand)


class TestAnOlderVersion:
    def test_gets_the_column_and_keeps_its_rows(self, database: Database, capsys: pytest.CaptureFixture[str]) -> None:
        with Sink(database) as sink:
            sink.bundle([summary("OLD", voltage_count=7)])
        change(database, "ALTER TABLE ami.summary DROP COLUMN voltage_count, DROP COLUMN swell_count")
        change(database, "DROP TABLE ami.alarm")
        change(database, "DROP INDEX ami.receipt_window_end_idx")
        with pytest.raises(
            PostgresqlError, match=r"lacks column summary.swell_count, column summary.voltage_count, table"
        ):
            check(database)
        assert main(["check", *options(database)]) == 1
        assert "python -m ami_beam.postgresql migrate" in capsys.readouterr().err
        assert main(["migrate", "--dry-run", *options(database)]) == 0
        told = capsys.readouterr().out
        assert 'ADD COLUMN "voltage_count" bigint' in told
        assert main(["check", *options(database)]) == 1
        capsys.readouterr()
        assert main(["migrate", *options(database)]) == 0
        assert capsys.readouterr().out == told
        check(database)
        with Sink(database) as sink:
            sink.bundle([summary("NEW", voltage_count=8)])
        found = rows(database, "SELECT transformer_id, voltage_count FROM ami.summary ORDER BY 1")
        assert found == [("NEW", 8), ("OLD", None)]
        assert len(rows(database, "SELECT number FROM ami.migration")) == 2

    def test_keeps_columns_and_grants_that_are_not_ours(self, database: Database) -> None:
        change(database, "ALTER TABLE ami.summary ADD COLUMN note text")
        change(database, "GRANT SELECT ON ami.transformer_summary TO PUBLIC")
        # As an older version has made it.
        old = 'CREATE OR REPLACE VIEW "ami"."transformer_summary" AS SELECT transformer_id, feeder_id, window_start,'
        old += " window_end, total_consumption_kwh, meters_reported, avg_voltage_v, min_voltage_v, max_voltage_v"
        old += " FROM ami.summary"
        change(database, "DROP VIEW ami.transformer_summary")
        change(database, old)
        change(database, "GRANT SELECT ON ami.transformer_summary TO PUBLIC")
        with database.connect() as connection:
            connection.execute(b"INSERT INTO ami.migration (ami_beam, statements) VALUES ('0.0.1', %s)", ([old],))
            assert next(each.lacks for each in migrate(connection, "ami")) == "view transformer_summary"
            assert migrate(connection, "ami") == []
        with Sink(database) as sink:
            sink.bundle([summary("T1")])
        assert rows(database, "SELECT transformer_id, note FROM ami.summary") == [("T1", None)]
        assert rows(database, "SELECT estimated_count FROM ami.transformer_summary") == [(0,)]
        granted = "SELECT grantee FROM information_schema.role_table_grants WHERE table_name = 'transformer_summary'"
        assert ("PUBLIC",) in rows(database, granted)

    def test_gets_its_key_back(self, database: Database) -> None:
        change(
            database, "ALTER TABLE ami.feeder_summary DROP CONSTRAINT feeder_summary_segment_feeder_id_window_end_key"
        )
        with database.connect() as connection:
            assert [each.lacks for each in migrate(connection, "ami")] == ["key of feeder_summary"]
        check(database)


def test_a_migration_that_fails_changes_nothing(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    change(database, "DROP TABLE ami.alarm")
    # In the way of a later statement: PostgreSQL replaces no view by one with other types.
    change(database, "DROP VIEW ami.transformer_meter_count")
    change(database, "CREATE VIEW ami.transformer_meter_count AS SELECT 1 AS transformer_id, 2 AS total_meters")
    change(database, "UPDATE ami.migration SET statements = '{}'")
    assert main(["migrate", *options(database)]) == 1
    assert "Nothing was changed" in capsys.readouterr().err
    assert rows(database, "SELECT to_regclass('ami.alarm')") == [(None,)]


def test_another_type_is_named_and_left_alone(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    change(database, "ALTER TABLE ami.alarm ALTER worst_value TYPE numeric")
    for action in ("check", "migrate"):
        assert main([action, *options(database)]) == 1
        said = capsys.readouterr().err
        assert "Column worst_value of ami.alarm is numeric, and this version writes double precision" in said


def test_two_migrations_at_once_are_one(postgresql_server: PostgresqlServer, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"password={postgresql_server.password}\n")
    database = Database(postgresql_server.create_database(next(_names)), str(tmp_path / "secret"), "ami")
    done: list[int] = []

    def one() -> None:
        with database.connect() as connection:
            done.append(len(migrate(connection, "ami")))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == [0, 0, 0, len(all_statements("ami"))]


def test_a_table_that_others_hold_is_not_waited_for_long(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ami_beam.postgresql.migration._WAIT", "200ms")
    change(database, "ALTER TABLE ami.summary DROP COLUMN swell_count")
    with database.connect() as reader, reader.transaction():
        reader.execute("SELECT count(*) FROM ami.summary")
        with database.connect() as connection, pytest.raises(PostgresqlError, match="Another session has held a table"):
            migrate(connection, "ami")


def test_roles_may_what_the_document_grants_them_and_no_more(
    postgresql_server: PostgresqlServer, tmp_path: Path
) -> None:
    """The document's own statements make three roles: one owns, one writes, one reads, and none sees more."""
    blocks = re.findall(r"```sql\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    make, grants = (next(block for block in blocks if f"-- {title}" in block) for title in ("Roles", "Grants"))
    psql(postgresql_server, postgresql_server.uri(), make.replace("PASSWORD NULL", "PASSWORD 'pw'"))
    secret = tmp_path / "secret"
    secret.write_text("password=pw\n")

    def as_role(role: str) -> Database:
        return Database(postgresql_server.uri("ami", role), str(secret), "ami")

    with as_role("ami_owner").connect() as connection:
        migrate(connection, "ami")
    with pytest.raises(PostgresqlError, match=r"ami_writer may not|permission denied"):
        check(as_role("ami_writer"))
    psql(postgresql_server, postgresql_server.uri("ami"), grants)
    check(as_role("ami_writer"))
    with Sink(as_role("ami_writer"), SUMMARY) as sink:
        sink.bundle([summary("T1"), summary("nul\0")])
    reader = as_role("ami_reader")
    assert rows(reader, "SELECT count(*) FROM transformer_summary") == [(1,)]
    for statement in ("SELECT * FROM dead_letter", "SELECT * FROM rejected_row", "DELETE FROM summary"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            rows(reader, statement)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        change(as_role("ami_writer"), "DELETE FROM ami.summary")
    # What a later version adds is granted by itself.
    change(as_role("ami_owner"), "DROP TABLE ami.alarm")
    with as_role("ami_owner").connect() as connection:
        migrate(connection, "ami")
    check(as_role("ami_writer"))
    assert rows(reader, "SELECT count(*) FROM alarm") == [(0,)]


@pytest.fixture
def replay(tmp_path: Path) -> list[str]:
    """A run's arguments without a database."""
    (tmp_path / "counts.csv").write_text("transformer_id,total_meters\nT1,1\n")
    for name in ("reads.jsonl", "events.jsonl"):
        (tmp_path / name).write_text("")
    inputs = [f"--reads={tmp_path}/reads.jsonl", f"--events={tmp_path}/events.jsonl"]
    return ["--source=files", "--sink=postgresql", *inputs, f"--meter_counts={tmp_path}/counts.csv"]


def test_a_run_without_tables_says_how_to_make_them(
    postgresql_server: PostgresqlServer, database: Database, replay: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    empty = Database(postgresql_server.create_database(next(_names)), database.config_file, "ami")
    assert command.main([*replay, *options(empty)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ami_beam.run: ")]
    assert "lacks schema ami, table migration, table summary and " in line
    assert "python -m ami_beam.postgresql migrate" in line


def test_a_wrong_password_is_refused_and_not_shown(
    postgresql_server: PostgresqlServer, replay: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "wrong"
    secret.write_text("password=pw-UNMISTAKABLE-5c1d\n")
    wrong = Database(postgresql_server.uri(), str(secret), "ami")
    assert command.main([*replay, *options(wrong)]) == 2
    assert main(["check", *options(wrong)]) == 1
    said = capsys.readouterr().err
    assert said.count("password authentication failed") == 2
    assert "UNMISTAKABLE" not in said
