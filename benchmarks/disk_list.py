#!/usr/bin/env python3
"""How fast is the disk list over a large catalog, and how many queries does it ask?

    .venv/bin/python benchmarks/disk_list.py [--disks 100000]

Fills a fresh SQLite catalog with chains of four disks each, then asks the real page (the
view, its service and its template) for its first page, a filter, a search and a late page.
Goal: below 100 ms each, and the same number of queries whatever the catalog's size.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ROUNDS = 7


def fill(disks: int) -> None:
    """Rows as a scan leaves them, without files."""
    from django.db import transaction
    from django.utils import timezone

    from disks.models import Disk, ParentLink, StorageRoot
    from disks.services.bulk import insert_rows, update_rows

    now = timezone.now()
    roots = [
        StorageRoot.objects.create(name=f"root-{n}", path=f"/srv/root-{n}", state="online")
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
        health = "broken" if chain % 50 == 0 and level else "healthy"
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
            ["child", "parent", "status", "named_identity", "named_path", "first_seen_at"],
            [
                (keys[n], keys[n - 1], "found", str(uuid.uuid4()), "C:\\VMs\\x.vhd", now)
                for n in range(disks)
                if n % 4
            ],
        )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--disks", type=int, default=100_000)
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
        measure(options.disks, show=options.queries)
    finally:
        shutil.rmtree(state, ignore_errors=True)


def measure(disks: int, *, show: bool) -> None:
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
    fill(disks)
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
        for query in queries.captured_queries if show else ():
            print(f"    {1000 * float(query['time']):6.0f} ms  {query['sql'][:160]}")


if __name__ == "__main__":
    main()
