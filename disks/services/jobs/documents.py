"""Jobs as documents for scripts."""

from __future__ import annotations

from typing import Any

from disks.models import Job
from disks.services import audit
from disks.services.stored_json import readable, restored


def document(job: Job) -> dict[str, Any]:
    """A job for scripts; names that are not UTF-8 are shown escaped."""
    return {
        "id": job.pk,
        "kind": job.kind,
        "status": job.status,
        "summary": job.summary,
        "step": job.step,
        "sentence": job.sentence,
        "done_bytes": job.done_bytes,
        "total_bytes": job.total_bytes,
        "waits_for": job.waits_for_id,
        "repeats": job.repeats_id,
        "parameters": readable(restored(job.parameters)),
        "result": job.result,
        "error": job.error,
        "requested_by": job.requested_by.get_username() if job.requested_by else audit.SYSTEM,
        "requested_at": job.requested_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "worked_seconds": job.worked_seconds,
        "cancel_requested_at": job.cancel_requested_at,
        "pause_requested_at": job.pause_requested_at,
        "held_at": job.held_at if job.is_held else None,
        "not_before": job.not_before,
        "stop_by": job.stop_by,
        "outside_hours": job.outside_hours,
        "resume_at": job.resume_at,
        "limit_bytes_per_second": job.limit_bytes_per_second,
        "cancellable": (job.is_active or job.is_paused) and job.cancellable,
        "worker": job.worker,
        "token": job.token,
        "attempts": job.attempts,
        "recoveries": job.recoveries,
    }
