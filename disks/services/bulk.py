"""Many rows at once: written by one statement that the driver repeats, read in portions.

Django's bulk_create and bulk_update build statements over all rows and columns, and a long
`IN` list is prepared value by value: both take seconds for ten thousand disks. This takes a
fraction of that, on SQLite and PostgreSQL alike.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from django.db import connection, models, transaction

from disks.models.fields import PathField, to_column
from disks.services.stored_json import json_text

_PORTION = 5_000
# Fields whose Python value is what the driver takes; asking them costs more than the write.
_PLAIN = (
    models.IntegerField,
    models.BooleanField,
    models.ForeignKey,
    models.CharField,
    models.TextField,
)


def update_rows(
    model: type[models.Model], fields: Sequence[str], rows: Iterable[Sequence[Any]]
) -> int:
    """Set fields of rows by primary key. A row is (pk, value, value, …) in fields' order.

    Values are Python values, as for Model.save(). Returns the number of rows given.
    """
    columns: list[Any] = [model._meta.get_field(name) for name in fields]
    key: Any = model._meta.pk
    quote = connection.ops.quote_name
    settings = ", ".join(f"{quote(column.column)} = %s" for column in columns)
    # Table and column names come from the model, never from outside.
    statement = (
        f"UPDATE {quote(model._meta.db_table)} SET {settings} "  # noqa: S608
        f"WHERE {quote(key.column)} = %s"
    )
    return _execute(statement, columns, [[*row[1:], row[0]] for row in rows])


def insert_rows(
    model: type[models.Model], fields: Sequence[str], rows: Iterable[Sequence[Any]]
) -> int:
    """Add rows, a value for each of fields; the model's defaults fill the other columns.

    A row that breaks a unique constraint is left out: somebody else was first. Primary keys
    are not told: ask for the rows by what makes them unique. Returns the number of rows given.
    """
    given = set(fields)
    columns: list[Any] = [model._meta.get_field(name) for name in fields]
    defaults = [
        field
        for field in model._meta.concrete_fields
        if not field.primary_key and field.name not in given
    ]
    filled = [field.get_db_prep_save(field.get_default(), connection) for field in defaults]
    quote = connection.ops.quote_name
    names = ", ".join(quote(column.column) for column in [*columns, *defaults])
    marks = ", ".join(["%s"] * (len(columns) + len(defaults)))
    statement = (
        f"INSERT INTO {quote(model._meta.db_table)} ({names}) "  # noqa: S608
        f"VALUES ({marks}) ON CONFLICT DO NOTHING"
    )
    return _execute(statement, columns, [[*row, *filled] for row in rows])


def _execute(statement: str, columns: Sequence[Any], rows: list[list[Any]]) -> int:
    """columns: those of each row's first values, which are turned into the driver's here."""
    for index, column in enumerate(columns):
        convert = _converter(column)
        if convert is not None:
            for row in rows:
                value = row[index]
                if value is not None:
                    row[index] = convert(value)
    if rows:
        # One transaction: else SQLite would begin and commit one for each row.
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.executemany(statement, rows)
    return len(rows)


def _converter(field: Any) -> Callable[[Any], Any] | None:
    """How a field's Python value becomes the driver's; None if it is that already."""
    if isinstance(field, PathField):
        return to_column
    if isinstance(field, _PLAIN):
        return None
    if isinstance(field, models.JSONField):
        return json_text

    def change(value: Any) -> Any:
        return field.get_db_prep_save(value, connection)

    if isinstance(field, models.DateTimeField) and connection.vendor == "sqlite":
        # The same few moments are written into thousands of rows, the others once each.
        return lru_cache(256)(_utc_text)
    return change


def _utc_text(moment: datetime) -> str:
    """As Django stores a moment in SQLite."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ")


def select_rows(
    model: type[models.Model], key: str, wanted: Collection[int], *columns: str
) -> Iterator[tuple[Any, ...]]:
    """(key, *columns) of the rows whose key, a number, is wanted; a query for each 5,000.

    Where the keys lie densely, as those of one scan do, a query asks for their range.
    """
    rows = model._default_manager.order_by()
    keys = wanted if isinstance(wanted, set | dict) else set(wanted)
    ordered = sorted(keys)
    for start in range(0, len(ordered), _PORTION):
        portion = ordered[start : start + _PORTION]
        if portion[-1] - portion[0] < 2 * len(portion):
            inside = rows.filter(**{f"{key}__gte": portion[0], f"{key}__lte": portion[-1]})
            for row in inside.values_list(key, *columns):
                if row[0] in keys:
                    yield row
        else:
            yield from rows.filter(**{f"{key}__in": portion}).values_list(key, *columns)
