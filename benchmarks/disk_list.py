#!/usr/bin/env python3
"""How fast are the disk list and the overview over a large catalog, in how many queries?

    .venv/bin/python benchmarks/disk_list.py [--disks 100000] [--broken 2] [--only overview]

Fills a fresh SQLite catalog with chains of four disks each, some of them broken, then asks
the real pages (the view, its service and its template): first page, filters, a search, a late
page, the tree, the overview. Goals: below 100 ms each, however many disks are broken
(`--disks 133336 --broken 100` has 100,000 broken links); and the same number of queries
whatever the catalog's size.

--broken  per cent of the chains that are broken: in every other one all children name a
          parent that is not there, in the rest the lowest child does
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ROUNDS = 7


def fill(disks: int, broken: int) -> None:
    """Rows as a scan leaves them, without files."""
    from django.db import transaction
    from django.utils import timezone

    from disks.models import Disk, ParentLink, StorageRoot
    from disks.services.bulk import insert_rows, update_rows

    now = timezone.now()
    roots = [
        StorageRoot.objects.create(
            name=f"root-{n}", path=f"/srv/root-{n}", state="online", last_scan_at=now
        )
        for n in range(4)
    ]
    columns = [
        "root", "relative_path", "name", "health", "sentence", "format", "disk_type",
        "virtual_size_bytes", "file_size_bytes", "allocated_bytes", "block_size_bytes",
        "blocks_total", "blocks_allocated", "identity", "modified_at", "first_seen_at",
        "last_seen_at", "chain_position", "chain_depth", "child_count",
    ]  # fmt: skip
    rows = []
    for number in range(disks):
        chain, level = divmod(number, 4)
        health = "broken" if chain % 100 < broken and level else "healthy"
        rows.append(
            (
                roots[chain % 4].pk, f"folder-{chain % 200}/vm-{chain}-{level}.vhd",
                f"vm-{chain}-{level}.vhd", health, "A sentence about this disk.", "vhd",
                "differencing" if level else "dynamic", 2**36, 2**30 + number, 2**30, 2**21,
                2**15, 512, str(uuid.uuid4()), now, now, now, level + 1, 4, int(level < 3),
            )
        )  # fmt: skip
    with transaction.atomic():
        insert_rows(Disk, columns, rows)
        keys = list(Disk.objects.order_by("pk").values_list("pk", flat=True))
        update_rows(
            Disk, ["chain_base"], [(key, keys[n - n % 4]) for n, key in enumerate(keys) if n % 4]
        )
        insert_rows(
            ParentLink,
            _LINK_COLUMNS,
            [link(keys, n, broken, now) for n in range(disks) if n % 4],
        )


_LINK_COLUMNS = [
    "child", "parent", "status", "named_identity", "named_path", "locators", "trace", "reason",
    "cause", "suggested", "unmapped_folder", "first_seen_at",
]  # fmt: skip


def link(keys: list[int], number: int, broken: int, now: Any) -> tuple[Any, ...]:
    """The link of a child; of a broken chain one that names a folder which nobody maps."""
    chain, level = divmod(number, 4)
    is_broken = chain % 100 < broken
    is_missing = is_broken and (level == 1 or chain % 2 == 1)
    named = f"D:\\Pool-{chain % 300}\\base-{chain % 5_000}.vhd"
    locators = [{"code": code, "path": named, "problem": None} for code in ("W2ku", "W2ru")]
    steps = [
        ("W2ku", named, None, "unmapped", "No storage root's Windows view covers this path."),
        ("beside", "base.vhd", f"/srv/root-{chain % 4}/base.vhd", "not-found", "There is none."),
    ]
    trace = [
        dict(zip(("source", "raw", "candidate", "verdict", "detail"), step, strict=True))
        for step in steps
    ]
    return (
        keys[number],
        None if is_missing else keys[number - 1],
        "missing" if is_missing else "found",
        str(uuid.uuid4()),
        named,
        locators,
        trace,
        f"This disk names {named}, and no storage root covers that path." if is_missing else "",
        f"missing:{chain % 5_000}" if is_broken else "",
        keys[0] if is_missing and chain % 3 == 0 else None,
        named.rpartition("\\")[0] if is_missing else "",
        now,
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--disks", type=int, default=100_000)
    arguments.add_argument("--broken", type=int, default=2)
    arguments.add_argument("--only", default="", help="pages with this word in their name")
    arguments.add_argument("--queries", action="store_true", help="show each query's time")
    options = arguments.parse_args()
    state = Path(tempfile.mkdtemp(prefix="vdadmin-bench-"))
    try:
        for name in [name for name in os.environ if name.startswith("VDADMIN_")]:
            del os.environ[name]
        os.environ |= {
            "VDADMIN_STATE_DIR": str(state),
            "VDADMIN_SECRET_KEY": "benchmark-" + "x" * 50,
            "VDADMIN_INSECURE_HTTP": "1",
            "DATABASE_URL": f"sqlite:///{state}/catalog.sqlite3",
        }
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vdadmin.settings")
        import django

        django.setup()
        measure(options)
    finally:
        shutil.rmtree(state, ignore_errors=True)


def measure(options: argparse.Namespace) -> None:
    disks = options.disks
    from django.conf import settings
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }
    os.makedirs(settings.STATIC_ROOT, exist_ok=True)
    call_command("migrate", verbosity=0)
    start = time.perf_counter()
    fill(disks, options.broken)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    print(f"{disks:,} disks catalogued in {time.perf_counter() - start:.1f} s")
    client = Client(headers={"host": "localhost"})
    client.force_login(
        get_user_model().objects.create_superuser("bench"),
        backend="django.contrib.auth.backends.ModelBackend",
    )
    for what, address in (
        ("first page", "/disks"),
        ("by health", "/disks?sort=-health"),
        ("by size", "/disks?sort=-used"),
        ("by virtual size", "/disks?sort=-virtual"),
        ("by children", "/disks?sort=-children"),
        ("by root", "/disks?sort=root"),
        ("by time", "/disks?sort=-changed"),
        ("broken ones", "/disks?health=broken"),
        ("search", "/disks?q=vm-4711"),
        ("late page", f"/disks?page={max(2, disks // 100)}"),
        ("as a tree", "/disks?view=tree"),
        ("searched tree", "/disks?view=tree&q=vm-4711"),
        ("late tree page", f"/disks?view=tree&page={max(2, disks // 200)}"),
        ("overview", "/"),
    ):
        if options.only not in what:
            continue
        client.get(address)  # templates are loaded once
        times, busy = [], []
        for _ in range(ROUNDS):
            begin, spent = time.perf_counter(), time.process_time()
            with CaptureQueriesContext(connection) as queries:
                answer = client.get(address)
            times.append(1000 * (time.perf_counter() - begin))
            busy.append(1000 * (time.process_time() - spent))
        print(
            f"{what:<14} {min(times):7.1f} ms best, {sorted(times)[ROUNDS // 2]:7.1f} ms median "
            f"({min(busy):.1f} ms of processor), "
            f"{len(queries):3} queries, HTTP {answer.status_code}"
        )
        for query in queries.captured_queries if options.queries else ():
            print(f"    {1000 * float(query['time']):6.0f} ms  {query['sql'][:160]}")


if __name__ == "__main__":
    main()
