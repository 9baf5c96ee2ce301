"""Many rows at once: a statement that is prepared once. Through model instances a row costs three times as much, and
the database has one writer only while it lasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django.db import connections, models, router


def upsert(
    model: type[models.Model],
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    unique: Sequence[str],
    update: bool,
) -> None:
    """Insert; a row that is there already is made equal, or left as it is. JSON is given as text.

    By columns' names, of which SQLite and PostgreSQL understand the same words.
    """
    given = list(rows)
    if not given:
        return
    connection = connections[router.db_for_write(model)]
    quote = connection.ops.quote_name
    changes = ", ".join(f"{quote(name)} = EXCLUDED.{quote(name)}" for name in columns if name not in unique)
    sql = (
        f"INSERT INTO {quote(model._meta.db_table)} ({', '.join(map(quote, columns))}) "  # noqa: S608 -- our own names
        f"VALUES ({', '.join(['%s'] * len(columns))}) "
        f"ON CONFLICT ({', '.join(map(quote, unique))}) {f'DO UPDATE SET {changes}' if update else 'DO NOTHING'}"
    )
    with connection.cursor() as cursor:
        cursor.executemany(sql, given)
