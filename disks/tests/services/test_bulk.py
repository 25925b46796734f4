"""Bulk writes store what a model's own save() stores; bulk reads find every row."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from disks.models import Disk, OtherFile, ParentLink
from disks.services.bulk import insert_rows, select_rows, update_rows
from disks.services.stored_json import JsonText, json_text
from disks.tests.factories import make_disk, make_link, make_root

pytestmark = pytest.mark.django_db

ODD_NAME = os.fsdecode(b"caf\xe9\\new\nline.vhd")
FINDINGS = [
    {"code": "N_X", "message": "half \ud83d of a pair, NUL \x00, 😀 and \\ud800", "value": 1}
]
MOMENTS = [
    datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=UTC),
    datetime(2024, 2, 29, 12, 0, 0, tzinfo=UTC),
    datetime(1999, 12, 31, 23, 0, 0, tzinfo=timezone(timedelta(hours=-5))),
]


def stored(pk: int) -> tuple[Any, ...]:
    """The columns as they lie in the database."""
    columns = ("relative_path", "name", "modified_at", "image_created_at", "virtual_size_bytes")
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(columns)} FROM disks_disk WHERE id = %s", [pk])
        row: tuple[Any, ...] = cursor.fetchone()
    return row


@pytest.mark.parametrize("moment", MOMENTS)
def test_rows_lie_there_as_save_leaves_them(moment: datetime) -> None:
    root = make_root()
    saved = make_disk(
        ODD_NAME, root=root, modified_at=moment, image_created_at=None, virtual_size_bytes=None
    )
    values = {
        "root": make_root().pk,
        "relative_path": ODD_NAME,
        "name": saved.name,
        "modified_at": moment,
        "image_created_at": None,
        "virtual_size_bytes": None,
        "first_seen_at": moment,
        "last_seen_at": moment,
        "findings": FINDINGS,
    }
    insert_rows(Disk, list(values), [list(values.values())])
    inserted = Disk.objects.exclude(pk=saved.pk).get()
    assert stored(inserted.pk) == stored(saved.pk)
    assert inserted.modified_at == moment
    assert inserted.child_count == 0  # a default of the model
    assert inserted.findings[0]["message"] == "half \\ud83d of a pair, NUL \\x00, 😀 and \\ud800"
    later = moment + timedelta(seconds=1)
    update_rows(Disk, ["modified_at", "findings"], [(inserted.pk, later, [])])
    inserted.refresh_from_db()
    assert (inserted.modified_at, inserted.findings) == (later, [])


def test_a_row_that_is_there_already_stays_as_it_is() -> None:
    root = make_root()
    columns = ["root", "relative_path", "inode", "file_size_bytes", "mtime_ns", "ctime_ns"]
    for size in (1, 2):
        insert_rows(OtherFile, columns, [(root.pk, "a.txt", 1, size, 1, 1)])
    assert list(OtherFile.objects.values_list("file_size_bytes", flat=True)) == [1]


@pytest.mark.parametrize("gap", [1, 1000])
def test_wanted_rows_are_found_whether_their_keys_lie_densely_or_not(
    gap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("disks.services.bulk._PORTION", 4)
    root = make_root()
    keys = [number * gap for number in range(1, 12)]
    for key in keys:
        make_disk(f"{key}.vhd", root=root, pk=key)
    wanted = {*keys[1:4], *keys[5:], 10**9}
    with CaptureQueriesContext(connection) as queries:
        found = dict(select_rows(Disk, "pk", wanted, "name"))
    assert found == {key: f"{key}.vhd" for key in wanted - {10**9}}
    assert len(queries) == 3  # ten keys, four at once
    assert all("ORDER BY" not in query["sql"] for query in queries)
    assert list(select_rows(Disk, "pk", set(), "name")) == []


def test_rows_are_found_by_a_foreign_key() -> None:
    links = [make_link(make_disk()) for _ in range(3)]
    found = dict(select_rows(ParentLink, "child_id", {links[0].child_id, links[2].child_id}, "pk"))
    assert found == {links[0].child_id: links[0].pk, links[2].child_id: links[2].pk}


def test_json_is_encoded_once_and_holds_nothing_that_a_database_refuses() -> None:
    text = json_text(FINDINGS)
    assert json.loads(text)[0]["message"] == "half \\ud83d of a pair, NUL \\x00, 😀 and \\ud800"
    assert json_text(JsonText(text)) is not text
    assert json_text(JsonText(text)) == text
    assert [json_text([]), json_text({}), json_text({"a": None})] == ["[]", "{}", '{"a": null}']
