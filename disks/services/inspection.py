"""One disk, looked at now: the page's document, and its catalog row brought up to date."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from django.db import transaction
from django.utils import timezone

from disks.engine.chain import open_chain
from disks.engine.check import check_image
from disks.engine.errors import ImageError
from disks.engine.findings import Finding, Level
from disks.engine.formats import identify
from disks.engine.images import RawRegion
from disks.engine.walk import Report
from disks.models import Disk, Job, StorageRoot
from disks.operations import inspection, merge_in_place, paths
from disks.operations.managers import is_telling
from disks.operations.progress import Progress
from disks.services import disk_rows, jobs, linking, reading, roots, verdicts
from disks.services.errors import Refusal
from disks.services.linking import Touched
from disks.services.moves import Found
from disks.services.reading import Reading
from disks.services.stored_json import readable
from disks.services.work import JobContext


def document(disk: Disk) -> dict[str, Any]:
    """What `disk inspect --json` says about the file now.

    Raises ImageError where the file cannot be opened or is no disk.
    """
    scope = roots.operation_roots()
    try:
        return inspection.inspect(disk.path, scope)
    finally:
        scope.close()


def raw_regions(disk: Disk) -> list[RawRegion]:
    """The structures of the file for the hex view, as far as they can be read."""
    scope = roots.operation_roots()
    try:
        with scope.open(disk.path) as file:
            form = identify(file)
            regions: list[RawRegion] = form.raw_regions(file)
            return regions
    finally:
        scope.close()


# ------------------------------------------------------------- after a job, without a scan


def refresh(disk: Disk) -> Disk:
    """Read the disk again and renew its row, its link and everything that hangs on it."""
    refresh_paths([disk.path])
    return Disk.objects.select_related("root", "parent_link").get(pk=disk.pk)


def refresh_paths(
    changed: Iterable[str],
    *,
    rewritten: Collection[str] = (),
    put_away: Collection[str] = (),
    job: Job | None = None,
) -> None:
    """Make the catalog right for these host paths: changed, new and gone ones.

    rewritten: only the headers changed, by a job of ours; children need not be warned
    put_away: these went to the trash by this job
    """
    scope = roots.operation_roots()
    by_path = {root.path: root for root in StorageRoot.objects.all()}
    touched = Touched()
    try:
        for path in dict.fromkeys([*changed, *rewritten, *put_away]):
            try:
                place, relative = scope.locate(path)
            except ImageError:
                continue
            root = by_path.get(place.path)
            if root is not None and relative:
                _refresh_one(
                    scope, root, path, relative, touched, job if path in put_away else None
                )
    finally:
        scope.close()
    if rewritten:
        touched.rewritten.update(_rows_of(rewritten))
    linking.renew(touched)


def _rows_of(host_paths: Collection[str]) -> list[int]:
    names = {os.path.basename(path) for path in host_paths}
    wanted = set(host_paths)
    rows = Disk.objects.filter(name__in=names).values_list("pk", "root__path", "relative_path")
    return [pk for pk, root, relative in rows if os.path.join(root, relative) in wanted]


def _refresh_one(
    scope: paths.Roots,
    root: StorageRoot,
    path: str,
    relative: str,
    touched: Touched,
    put_away_by: Job | None,
) -> None:
    row = Disk.objects.filter(root=root, relative_path=relative).first()
    now = timezone.now()
    try:
        found = _read(scope, path)
    except ImageError as error:
        if error.code not in ("E_NOT_FOUND", "E_NOT_A_FILE"):
            found = reading.refused(error, os.path.basename(path))
        else:
            if row is not None:
                touched.add(row.pk, row.identity)
                if row.missing_since is None or put_away_by is not None:
                    row.missing_since = row.missing_since or now
                    row.put_away_by = put_away_by
                    row.save(update_fields=["missing_since", "put_away_by"])
            return
    if row is None and not (found.is_listed and found.was_read):
        return
    with transaction.atomic():
        if row is None:
            new = Found(root, relative, found)
            key = disk_rows.insert_disks([new], now)[root.pk, relative]
            if found.link is not None:
                touched.new_links[key] = found.link
        else:
            key = row.pk
            touched.add(key, row.identity)
            disk_rows.update_disks([(key, found)], now)
        touched.add(key, found.identity)


def _read(scope: paths.Roots, path: str) -> Reading:
    folder, name = os.path.split(path)
    with scope.open(path) as file:
        try:
            telling = [entry.name for entry in scope.entries(folder) if is_telling(entry.name)]
        except ImageError:
            telling = []
        half_merged = merge_in_place.is_half_way_into(scope, path)
        return reading.read(file, name, telling, half_merged=half_merged)


# ------------------------------------------------------------------------------- checking


def request_check(
    disks: Sequence[Disk],
    *,
    user: Any,
    idempotency_key: str,
    deep: bool = True,
    address: str = "",
) -> Job:
    """Ask for a check of these disks; the caller enqueues the job. It writes to no disk."""
    if not disks:
        raise Refusal("E_NOTHING_CHOSEN", "No disk was chosen.", "Choose at least one disk.")
    what = readable(disks[0].name) if len(disks) == 1 else f"{len(disks):,} disks"
    return jobs.request(
        kind=Job.Kind.CHECK,
        parameters={"disks": [disk.pk for disk in disks], "deep": deep},
        user=user,
        disk=disks[0] if len(disks) == 1 else None,
        summary=f"Check {what}",
        shared=[disk.path for disk in disks],
        idempotency_key=idempotency_key,
        address=address,
    )


def run_check(
    parameters: dict[str, Any], progress: Progress, context: JobContext
) -> dict[str, Any]:
    """Check each disk, and with it whether its chain can be read; the findings go to its row."""
    wanted = list(parameters["disks"])
    disks = Disk.objects.select_related("root").in_bulk(wanted)
    scope = context.roots()
    results: list[dict[str, Any]] = []
    progress.step("check", f"Checking {len(wanted):,} {'disk' if len(wanted) == 1 else 'disks'}")
    total = sum(disk.file_size_bytes for disk in disks.values())
    done = 0

    def report(at: int, _size: int) -> None:
        """Places in one file become bytes of all of them."""
        progress.report(done + at, total)

    try:
        for number, pk in enumerate(wanted, 1):
            disk = disks.get(pk)
            if disk is None:
                continue
            sentence = f"disk {number:,} of {len(wanted):,}: {readable(disk.name)}"
            progress.report(done, total, sentence)
            deep = bool(parameters.get("deep", True))
            findings, was_read = _check_one(disk, scope, deep=deep, report=report)
            errors = sum(finding.level is Level.ERROR for finding in findings)
            warnings = sum(finding.level is Level.WARNING for finding in findings)
            results.append(
                {
                    "disk": pk,
                    "path": disk.path,
                    "errors": errors,
                    "warnings": warnings,
                    "findings": [finding.as_dict() for finding in findings],
                    "was_read": was_read,
                }
            )
            done += disk.file_size_bytes
            if errors:
                progress.log(f"{readable(disk.name)}: {errors} errors, {warnings} warnings")
    finally:
        scope.close()
    _keep(results)
    bad = sum(1 for row in results if row["errors"])
    return {
        "disks": results,
        "errors": sum(row["errors"] for row in results),
        "warnings": sum(row["warnings"] for row in results),
        "sentence": f"{len(results):,} {'disk' if len(results) == 1 else 'disks'} checked: "
        + (f"{bad:,} with errors." if bad else "no errors."),
    }


def _check_one(
    disk: Disk, scope: paths.Roots, *, deep: bool, report: Report
) -> tuple[list[Finding], bool]:
    """The findings, and whether the file could be read at all."""
    try:
        with scope.open(disk.path) as file:
            findings = check_image(file, deep=deep, report=report)
    except ImageError as error:
        return [Finding.from_error(error)], False
    if disk.disk_type == "differencing":
        try:
            open_chain(disk.path, scope).close()
        except ImageError as error:
            findings.append(Finding.from_error(error))
    return findings, True


def _keep(results: Sequence[dict[str, Any]]) -> None:
    """What a deep check finds in a file stays with its row until the file changes."""
    touched = Touched()
    # A file that is gone or closed to us says nothing about its content: its row tells that.
    refresh_paths([row["path"] for row in results if not row["was_read"]])
    for row in results:
        if not row["was_read"]:
            continue
        disk = Disk.objects.filter(pk=row["disk"]).first()
        if disk is None or disk.own_health in (Disk.Health.IN_USE, Disk.Health.UNREADABLE):
            continue
        of_file = [
            finding
            for finding in row["findings"]
            if finding["code"] not in _CHAIN_CODES and not finding["code"].startswith("E_PARENT")
        ]
        of_catalog = [
            finding
            for finding in disk.findings
            if finding["code"] in (*verdicts.CATALOG_CODES, "W_HARD_LINKS", reading.HALF_MERGED)
        ]
        findings = reading.clean([*of_file, *of_catalog])
        if disk.own_health != Disk.Health.NOT_A_DISK:
            disk.own_health = verdicts.own_health(findings)
        disk.findings = findings
        disk.save(update_fields=["findings", "own_health"])
        touched.add(disk.pk)
    linking.renew(touched)


# Said by the chain, which has its own place in the catalog: the link and the verdict.
_CHAIN_CODES = (
    "E_CYCLE",
    "E_CHAIN_DEPTH",
    "E_OUTSIDE_ROOTS",
    "E_IN_USE",
    "E_ACCESS",
    "E_NOT_FOUND",
)
