#!/usr/bin/env python3
"""How fast is a scan of many disks into SQLite?

    .venv/bin/python benchmarks/scan.py [--disks 10000]

Builds small Windows-like VHDs (one base in ten, nine differencing children each) in a
temporary folder, scans them, scans them unchanged, touches a tenth, moves a folder.
Prints seconds and disks per second; goals: 10,000 new ones in 5 s, unchanged in 1 s.
"""

from __future__ import annotations

import argparse
import os
import shutil
import struct
import sys
import tempfile
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

BLOCK = 2 * 1024 * 1024
SIZE = 64 * 1024 * 1024


def checksummed(data: bytearray, at: int) -> bytes:
    """Fill the 4-byte one's complement checksum at this offset."""
    data[at : at + 4] = bytes(4)
    struct.pack_into(">I", data, at, ~sum(data) & 0xFFFFFFFF)
    return bytes(data)


def footer(identity: bytes, kind: int) -> bytes:
    data = bytearray(512)
    struct.pack_into(">8sIIQI4sI4sQQHBBI", data, 0, b"conectix", 2, 0x10000, 512, 0, b"win ",
                     0xA0000, b"Wi2k", SIZE, SIZE, 963, 8, 17, kind)  # fmt: skip
    data[68:84] = identity
    return checksummed(data, 64)


def image(identity: bytes, parent: tuple[bytes, str] | None) -> bytes:
    """A dynamic disk without blocks, or a differencing one that names its parent."""
    foot = footer(identity, 4 if parent else 3)
    header = bytearray(1024)
    struct.pack_into(">8sQQIII", header, 0, b"cxsparse", 2**64 - 1, 8192, 0x10000, SIZE // BLOCK,
                     BLOCK)  # fmt: skip
    body = bytearray(12288 + 512)
    if parent:
        parent_identity, name = parent
        header[40:56] = parent_identity
        absolute = f"C:\\VMs\\{name}"
        header[64 : 64 + 2 * len(absolute)] = absolute.encode("utf-16-be")
        texts = ((b"W2ku", absolute, 4096), (b"W2ru", f".\\{name}", 12288))
        for slot, (code, text, offset) in enumerate(texts):
            raw = text.encode("utf-16-le")
            struct.pack_into(">4sIIIQ", header, 576 + slot * 24, code, 512, len(raw), 0, offset)
            body[offset : offset + len(raw)] = raw
    body[:512] = foot
    body[512:1536] = checksummed(header, 36)
    body[8192 : 8192 + 4 * (SIZE // BLOCK)] = b"\xff" * (4 * (SIZE // BLOCK))
    return bytes(body) + foot


def build(root: Path, disks: int) -> None:
    for group in range(disks // 10):
        folder = root / f"group-{group // 50}"
        folder.mkdir(exist_ok=True)
        base = uuid.uuid4().bytes
        (folder / f"base-{group}.vhd").write_bytes(image(base, None))
        for child in range(9):
            data = image(uuid.uuid4().bytes, (base, f"base-{group}.vhd"))
            (folder / f"child-{group}-{child}.vhd").write_bytes(data)


def timed(what: str, disks: int, work) -> None:  # type: ignore[no-untyped-def]
    start, spent = time.perf_counter(), time.process_time()
    result = work()
    seconds, busy = time.perf_counter() - start, time.process_time() - spent
    print(
        f"{what:<26} {seconds:6.2f} s ({busy:5.2f} s of processor) {disks / seconds:9,.0f} disks/s"
        f"   {result['sentence']}"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--disks", type=int, default=10_000)
    arguments.add_argument("--profile", choices=("cumulative", "tottime"), help="of a first scan")
    options = arguments.parse_args()
    state = Path(tempfile.mkdtemp(prefix="vdadmin-bench-"))
    try:
        for name in [name for name in os.environ if name.startswith("VDADMIN_")]:
            del os.environ[name]
        os.environ["VDADMIN_STATE_DIR"] = str(state)
        os.environ["VDADMIN_SECRET_KEY"] = "benchmark-" + "x" * 50
        os.environ["DATABASE_URL"] = f"sqlite:///{state}/catalog.sqlite3"
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vdadmin.settings")
        import django

        django.setup()
        from django.core.management import call_command

        from disks.models import ParentLink, StorageRoot
        from disks.services import roots, scanning

        call_command("migrate", verbosity=0)
        storage = state / "storage"
        storage.mkdir()
        build(storage, options.disks)
        root = roots.declare(path=str(storage), declared_by=StorageRoot.DeclaredBy.COMMAND_LINE)
        if options.profile:
            import cProfile
            import pstats

            profile = cProfile.Profile()
            profile.runcall(scanning.scan, root)
            pstats.Stats(profile).sort_stats(options.profile).print_stats(50)
            return
        timed("new", options.disks, lambda: scanning.scan(root))
        found = ParentLink.objects.filter(status="found").count()
        print(f"{'':<26} {found:,} parent links found")
        timed("unchanged", options.disks, lambda: scanning.scan(root))
        for index, path in enumerate(sorted(storage.rglob("child-*.vhd"))):
            if index % 10 == 0:
                os.utime(path)
        timed("a tenth touched", options.disks, lambda: scanning.scan(root))
        os.rename(storage / "group-0", storage / "moved")
        timed("one folder moved", options.disks, lambda: scanning.scan(root))
        for path in sorted((storage / "moved").glob("base-*.vhd")):
            os.rename(path, storage / path.name)
        timed("its bases moved elsewhere", options.disks, lambda: scanning.scan(root))
    finally:
        shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    main()
