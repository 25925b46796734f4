"""Many rows at once: one statement, executed for each row by the driver.

Django's bulk_create and bulk_update build statements over all rows and columns, which
takes seconds for ten thousand disks; executemany takes a fraction of that, on SQLite and
PostgreSQL alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from django.db import connection, models, transaction

from disks.models.fields import PathField, to_column

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
    convert = [_converter(column) for column in columns]
    quote = connection.ops.quote_name
    settings = ", ".join(f"{quote(column.column)} = %s" for column in columns)
    # Table and column names come from the model, never from outside.
    statement = (
        f"UPDATE {quote(model._meta.db_table)} SET {settings} "  # noqa: S608
        f"WHERE {quote(key.column)} = %s"
    )
    return _execute(
        statement,
        [[*_converted(convert, row[1:]), row[0]] for row in rows],
    )


def insert_rows(
    model: type[models.Model], fields: Sequence[str], rows: Iterable[Sequence[Any]]
) -> int:
    """Add rows, a value for each of fields; the model's defaults fill the other columns.

    A row that breaks a unique constraint is left out: somebody else was first. Primary keys
    are not told: ask for the rows by what makes them unique.
    """
    given = set(fields)
    columns: list[Any] = [model._meta.get_field(name) for name in fields]
    defaults = [
        field
        for field in model._meta.concrete_fields
        if not field.primary_key and field.name not in given
    ]
    filled = [field.get_db_prep_save(field.get_default(), connection) for field in defaults]
    convert = [_converter(column) for column in columns]
    quote = connection.ops.quote_name
    names = ", ".join(quote(column.column) for column in [*columns, *defaults])
    marks = ", ".join(["%s"] * (len(columns) + len(defaults)))
    statement = (
        f"INSERT INTO {quote(model._meta.db_table)} ({names}) "  # noqa: S608
        f"VALUES ({marks}) ON CONFLICT DO NOTHING"
    )
    return _execute(statement, [[*_converted(convert, row), *filled] for row in rows])


def _converted(convert: Sequence[Callable[[Any], Any] | None], values: Sequence[Any]) -> list[Any]:
    return [
        value if change is None or value is None else change(value)
        for change, value in zip(convert, values, strict=True)
    ]


def _converter(field: Any) -> Callable[[Any], Any] | None:
    """How a field's Python value becomes the driver's; the short way where it is known."""
    if isinstance(field, PathField):
        return to_column
    if isinstance(field, _PLAIN):
        return None
    if isinstance(field, models.JSONField) and connection.vendor == "sqlite":
        return json.dumps

    def change(value: Any) -> Any:
        return field.get_db_prep_save(value, connection)

    # The same few moments are written into thousands of rows.
    return lru_cache(256)(change) if isinstance(field, models.DateTimeField) else change


def _execute(statement: str, values: list[list[Any]]) -> int:
    if values:
        # One transaction: else SQLite would begin and commit one for each row.
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.executemany(statement, values)
    return len(values)
