"""The tables and views of results in PostgreSQL, made from the catalogue of results, and their DDL."""

from __future__ import annotations

from dataclasses import dataclass

from ami_beam.codecs.json_outputs import CONFIG_TOPIC
from ami_beam.results import RESULTS, Kind, Result

_TYPES = {
    Kind.TEXT: "text",
    Kind.INTEGER: "bigint",
    Kind.NUMBER: "double precision",
    Kind.CONDITION: "boolean",
    Kind.INSTANT: "timestamp with time zone",
    # The same text as in JSON.
    Kind.BYTES: "text",
    Kind.TEXTS: "text[]",
    Kind.INTEGERS: "bigint[]",
}
_TIMES = ("window_end", "alert_time", "last_window", "interval_end", "record_time", "day", "month")
"""By which rows are looked for and thrown away: of each table the first that it has."""


@dataclass(frozen=True)
class Column:
    """A column; PostgreSQL's own name for its type."""

    name: str
    type: str
    needed: bool
    """Whether it is NOT NULL. Only of columns that can never be added to rows that are there."""


@dataclass(frozen=True)
class Table:
    """A table whose rows are known by `identity`."""

    name: str
    comment: str
    columns: tuple[Column, ...]
    identity: tuple[str, ...]
    indexes: tuple[tuple[str, ...], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns, in their order."""
        return tuple(column.name for column in self.columns)

    @property
    def versioned(self) -> bool:
        """Whether a row can come again: then the greatest as_of stays."""
        return "as_of" in self.names


@dataclass(frozen=True)
class View:
    """A view over tables; `{schema}` stands for their schema."""

    name: str
    comment: str
    query: str


def table_of(result: Result) -> Table:
    """The table of one kind of result."""
    optional = {field.name: field.optional for field in result.fields}
    needed = {name for name in (*result.identity, "as_of") if not optional.get(name, True)}
    columns = tuple(Column(field.name, _TYPES[field.kind], field.name in needed) for field in result.fields)
    time = next(name for name in _TIMES if name in optional)
    indexes: list[tuple[str, ...]] = []
    if result.identity[0] not in _TIMES:
        indexes.append((time,))
    if "entity_id" in optional:
        indexes.append(("entity_id", time))
    about = " ".join((result.row_type.__doc__ or "").replace("`", "").split())
    comment = about if result.topic in about else f"{result.topic}: {about}"
    return Table(result.table, comment, columns, result.identity, tuple(indexes))


RESULT_TABLES = tuple(map(table_of, RESULTS))
"""In the order in which a transaction writes them, so that two never wait for each other."""
CONFIG = Table(
    "config",
    f"{CONFIG_TOPIC}: what config_id of alerts and alarms stands for: the rules of a run.",
    (
        Column("config_id", "text", True),
        Column("version", "text", False),
        Column("started", "timestamp with time zone", True),
        Column("rules", "jsonb", True),
    ),
    ("config_id",),
)
REJECTED = Table(
    "rejected_row",
    "Records of topics that PostgreSQL cannot hold, such as a text with U+0000, as they are; look here when "
    "postgresql_rows_rejected counts.",
    (
        Column("topic", "text", True),
        Column("value_sha256", "bytea", True),
        Column("value", "bytea", True),
        Column("reason", "text", True),
        Column("rejected_at", "timestamp with time zone", True),
    ),
    ("topic", "value_sha256"),
    (("rejected_at",),),
)
TABLES = (*RESULT_TABLES, CONFIG, REJECTED)

VIEWS = (
    View(
        "transformer_summary",
        "The article's view: every transformer and feeder with reads in a window.",
        "SELECT transformer_id, feeder_id, window_start, window_end, total_consumption_kwh, meters_reported,"
        " avg_voltage_v, min_voltage_v, max_voltage_v, estimated_count FROM {schema}.summary WHERE meters_reported > 0",
    ),
    View(
        "transformer_meter_count",
        "The article's table of meter counts, as the receipt rows of the last two days have them.",
        # Without the two days a query would go through all receipt rows there are.
        "SELECT DISTINCT ON (transformer_id) transformer_id, total_meters FROM {schema}.receipt WHERE window_end >"
        " (SELECT max(window_end) FROM {schema}.receipt) - interval '2 days' ORDER BY transformer_id, window_end DESC",
    ),
    View(
        "read_receipt_rate",
        "The article's view, with rows for transformers of which nothing was heard.",
        "SELECT transformer_id, window_end, meters_reported, total_meters,"
        " round(receipt_rate_pct::numeric, 1) AS receipt_rate_pct FROM {schema}.receipt",
    ),
    View(
        "ami_operational_alerts",
        "The article's view: every alert that holds.",
        "SELECT alert_source, entity_id, alert_time, alert_type, detail_value, severity FROM {schema}.grid_alert WHERE"
        " status <> 'CLEARED' UNION ALL SELECT alert_source, entity_id, alert_time, alert_type, detail_value, severity"
        " FROM {schema}.event_alert WHERE status <> 'CLEARED'",
    ),
)


def quoted(name: str) -> str:
    """An identifier; our names hold no quotes."""
    return f'"{name}"'


def listed(names: tuple[str, ...]) -> str:
    """Identifiers with commas between them."""
    return ", ".join(map(quoted, names))


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def full_name(schema: str, name: str) -> str:
    """An identifier with its schema."""
    return f"{quoted(schema)}.{quoted(name)}"


def create_table(schema: str, table: Table) -> str:
    """The statement that makes it, with the key of its identity."""
    lines = [f"  {quoted(each.name)} {each.type}{' NOT NULL' if each.needed else ''}" for each in table.columns]
    return f"CREATE TABLE {full_name(schema, table.name)} (\n" + ",\n".join([*lines, f"  {_key(table)}"]) + "\n)"


def _key(table: Table) -> str:
    needed = {column.name for column in table.columns if column.needed}
    # The row of the whole system has no feeder: null is one value of the identity.
    kind = "PRIMARY KEY" if needed.issuperset(table.identity) else "UNIQUE NULLS NOT DISTINCT"
    return f"{kind} ({listed(table.identity)})"


def add_key(schema: str, table: Table) -> str:
    """The statement that gives a table the key of its identity."""
    return f"ALTER TABLE {full_name(schema, table.name)} ADD {_key(table)}"


def add_column(schema: str, table: Table, column: Column) -> str:
    """The statement that adds a column; rows that are there have null in it."""
    return f"ALTER TABLE {full_name(schema, table.name)} ADD COLUMN {quoted(column.name)} {column.type}"


def comment_on(kind: str, schema: str, name: str, comment: str) -> str:
    """The statement that says what a table or view is."""
    return f"COMMENT ON {kind} {full_name(schema, name)} IS {_text(comment)}"


def index_name(table: Table, columns: tuple[str, ...]) -> str:
    """As PostgreSQL itself would call it."""
    return f"{table.name}_{'_'.join(columns)}_idx"


def create_index(schema: str, table: Table, columns: tuple[str, ...]) -> str:
    """The statement that makes an index."""
    return f"CREATE INDEX {quoted(index_name(table, columns))} ON {full_name(schema, table.name)} ({listed(columns)})"


def create_view(schema: str, view: View) -> str:
    """The statement that makes a view, or makes it anew with the grants that it has."""
    return f"CREATE OR REPLACE VIEW {full_name(schema, view.name)} AS {view.query.format(schema=quoted(schema))}"
