"""Every address of the console with the role that it asks for: one line each.

`page` is the only way to add one. Anonymous visitors of a page above ANYONE are sent to sign
in; a user whose role does not reach is told which one it needs.
"""

from __future__ import annotations

from django.contrib import admin
from django.urls import URLPattern, URLResolver, path

from disks.services.access import Role
from disks.views import (
    audit,
    check,
    compact,
    compact_many,
    convert,
    create,
    disks,
    expand,
    finish_merge,
    inspect,
    jobs,
    mend,
    merge,
    overview,
    parents,
    pile,
    relocate,
    repair,
    roots,
    session,
    timing,
    trash,
)
from disks.views.guard import View, guarded


def page(route: str, view: View, *, name: str, role: Role) -> URLPattern:
    """One address: its view behind its role."""
    return path(route, guarded(view, role), name=name)


ANYONE, SIGNED_IN = Role.ANYONE, Role.SIGNED_IN
VIEWER, OPERATOR, ADMINISTRATOR = Role.VIEWER, Role.OPERATOR, Role.ADMINISTRATOR

urlpatterns: list[URLPattern | URLResolver] = [
    # --- session
    page("login", session.sign_in, name="login", role=ANYONE),
    page("logout", session.sign_out, name="logout", role=SIGNED_IN),
    page("password", session.change_password, name="password-change", role=SIGNED_IN),
    page("theme", session.choose_theme, name="theme", role=ANYONE),
    page("health", session.health, name="health", role=ANYONE),
    # --- what is broken, and its repair
    page("", overview.overview, name="overview", role=VIEWER),
    page("repair", repair.repair, name="repair", role=VIEWER),
    page("repair/apply", repair.apply, name="repair-apply", role=OPERATOR),
    page("repair/<int:job_id>/undo", repair.undo, name="repair-undo", role=OPERATOR),
    # --- checkpoint piles
    page("piles", pile.piles, name="piles", role=VIEWER),
    page("piles/folder", pile.pile, name="pile", role=VIEWER),
    page("piles/script", pile.script, name="pile-script", role=VIEWER),
    page("piles/merge", pile.start, name="pile-start", role=OPERATOR),
    # --- disks
    page("disks", disks.disks, name="disks", role=VIEWER),
    page("disks/bulk", check.bulk, name="disks-bulk", role=OPERATOR),
    page("disks/compact", compact_many.compact_many, name="compact-many", role=OPERATOR),
    page("create", create.create, name="create", role=OPERATOR),
    page("disks/<int:disk_id>", inspect.disk, name="disk", role=VIEWER),
    page("disks/<int:disk_id>/check", check.check, name="check", role=OPERATOR),
    page("disks/<int:disk_id>/parent", parents.parent_path, name="parent-path", role=VIEWER),
    page(
        "disks/<int:disk_id>/parent/apply", parents.apply, name="parent-path-apply", role=OPERATOR
    ),
    page("disks/<int:disk_id>/parent/undo", parents.undo, name="parent-path-undo", role=OPERATOR),
    page("disks/<int:disk_id>/parent/trust", parents.trust, name="parent-trust", role=OPERATOR),
    page(
        "disks/<int:disk_id>/repair-headers",
        mend.repair_headers,
        name="repair-headers",
        role=OPERATOR,
    ),
    page("disks/<int:disk_id>/replay-log", mend.replay_log, name="replay-log", role=OPERATOR),
    page("disks/<int:disk_id>/merge", merge.merge, name="merge", role=OPERATOR),
    page(
        "disks/<int:disk_id>/finish-merge",
        finish_merge.finish_merge,
        name="finish-merge",
        role=OPERATOR,
    ),
    page("disks/<int:disk_id>/pile", pile.of_disk, name="disk-pile", role=VIEWER),
    page("disks/<int:disk_id>/compact", compact.compact, name="compact", role=OPERATOR),
    page("disks/<int:disk_id>/convert", convert.convert, name="convert", role=OPERATOR),
    page("disks/<int:disk_id>/expand", expand.expand, name="expand", role=OPERATOR),
    page("disks/<int:disk_id>/copy", relocate.copy, name="copy", role=OPERATOR),
    page("disks/<int:disk_id>/move", relocate.move, name="move", role=OPERATOR),
    page("disks/<int:disk_id>/delete", relocate.delete, name="delete", role=OPERATOR),
    # --- jobs
    page("jobs", jobs.job_list, name="jobs", role=VIEWER),
    page("jobs/running", jobs.running, name="jobs-running", role=VIEWER),
    page("jobs/time", timing.time_guess, name="job-time", role=OPERATOR),
    page("jobs/<int:job_id>", jobs.job_detail, name="job", role=VIEWER),
    page("jobs/<int:job_id>/cancel", jobs.cancel, name="job-cancel", role=OPERATOR),
    page("jobs/<int:job_id>/pause", jobs.pause, name="job-pause", role=OPERATOR),
    page("jobs/<int:job_id>/start-now", jobs.start_now, name="job-start-now", role=OPERATOR),
    page("jobs/<int:job_id>/resume", jobs.resume, name="job-resume", role=OPERATOR),
    page("jobs/<int:job_id>/retry", jobs.retry, name="job-retry", role=OPERATOR),
    # --- storage roots
    page("roots", roots.root_list, name="roots", role=VIEWER),
    page("roots/add", roots.add, name="root-add", role=ADMINISTRATOR),
    page("roots/<int:root_id>", roots.root_detail, name="root", role=VIEWER),
    page("roots/<int:root_id>/edit", roots.edit, name="root-edit", role=ADMINISTRATOR),
    page("roots/<int:root_id>/scan", roots.scan, name="root-scan", role=OPERATOR),
    page("roots/<int:root_id>/probe", roots.probe, name="root-probe", role=OPERATOR),
    page("roots/<int:root_id>/accept", roots.accept, name="root-accept", role=ADMINISTRATOR),
    page("roots/<int:root_id>/remove", roots.remove, name="root-remove", role=ADMINISTRATOR),
    # --- trash
    page("trash", trash.trash_list, name="trash", role=VIEWER),
    page("trash/<int:trash_id>/restore", trash.restore, name="trash-restore", role=OPERATOR),
    page("trash/<int:trash_id>/empty", trash.empty, name="trash-empty", role=ADMINISTRATOR),
    page(
        "trash/roots/<int:root_id>/empty",
        trash.empty_root,
        name="trash-empty-root",
        role=ADMINISTRATOR,
    ),
    # --- audit
    page("audit", audit.audit_list, name="audit", role=VIEWER),
    page("audit.csv", audit.audit_csv, name="audit-csv", role=VIEWER),
    # --- users and roles: each of its addresses asks for ADMINISTRATOR, see views/admin_site.py
    path("admin/", admin.site.urls),
]
