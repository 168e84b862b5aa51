"""CSV files that options name: their rows by column, and problems that name file, line and fix."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence

from ami_beam.io.files import ReplayError, file_lines

_SHOWN_PROBLEMS = 10


class TableError(ValueError):
    """A table that cannot be used: names the file and, for each bad row, line, field, value and fix."""


def read(path: str) -> bytes:
    """The content of a file, plain or .gz. Raises TableError."""
    try:
        return b"".join(file_lines(path))
    except ReplayError as error:
        raise TableError(str(error)) from None
    except Exception as error:  # each file system has its own exceptions
        raise TableError(f"{path}: cannot be read: {error}") from error


def take_rows(
    content: bytes,
    path: str,
    what: str,
    columns: tuple[Sequence[str], Sequence[str]],
    take: Callable[[dict[str, str]], str | None],
    empty: str,
) -> None:
    """Take in every row; raises TableError with the first problems of all of them, and for a table without any.

    Lines that begin with # and empty ones are passed over. Raises TableError, too, for what is not UTF-8, and for a
    first line without the columns that are needed.

    Args:
      content: of the file, and `path` its name, for messages.
      what: the kind of table.
      columns: those that are needed, and all that it may have, for the message.
      take: takes in a row's values by column, without the spaces around them, and says what is wrong with them.
      empty: what is wrong with a table without a row.
    """
    problems: list[str] = []
    taken = 0
    for number, fields in _rows(content, path, *columns):
        problem = take(fields)
        if problem:
            problems.append(f"line {number}: {problem}")
        else:
            taken += 1
    if not problems and not taken:
        problems.append(empty)
    if problems:
        more = [f"and {len(problems) - _SHOWN_PROBLEMS} more"] if len(problems) > _SHOWN_PROBLEMS else []
        raise TableError("\n  ".join([f"{path}: bad {what}", *problems[:_SHOWN_PROBLEMS], *more]))


def strict_header(values: Sequence[str], path: str, needed: Sequence[str], columns: Sequence[str]) -> list[str]:
    """The names of the columns. Raises TableError where one that is needed is missing, or one is there twice."""
    header = [value.strip() for value in values]
    missing = [name for name in needed if name not in header]
    if missing:
        raise TableError(
            f"{path}, line 1: no column {' and '.join(missing)}; the first line names the columns, separated by commas:"
            f" {','.join(columns)}"
        )
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise TableError(f"{path}, line 1: column {', '.join(twice)} is there twice; keep one")
    return header


def _rows(
    content: bytes, path: str, needed: Sequence[str], columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """The number of each row's line and its values by column."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    numbered = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line and line[0] != "#"]
    header = next(csv.reader([numbered[0][1]])) if numbered else []
    names = [name.strip() for name in header]
    if missing := [name for name in needed if name not in names]:
        named = f"columns {', '.join(columns)}" if len(columns) > 1 else f"column {columns[0]}"
        raise TableError(f"{path}: the first line must name the {named}; {missing[0]} is missing")
    reader = csv.reader(line for _, line in numbered[1:])
    try:
        for row in reader:
            fields = {name: value.strip() for name, value in zip(names, row, strict=False)}
            yield numbered[reader.line_num][0], fields
    except csv.Error as error:
        raise TableError(f"{path}: line {numbered[reader.line_num][0]} is no CSV: {error}") from None
