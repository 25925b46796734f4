"""Convert: what the copy shall be and where it goes, what will happen, then the job."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from disks.engine.errors import ImageError
from disks.forms.convert import ConvertForm
from disks.forms.declarations import DeclarationForm, sealed
from disks.models import Disk, Job
from disks.services import chains, converting, estimates
from disks.services.errors import Refusal
from disks.views import plans
from disks.views.drawing.from_catalog import drawn_chain
from disks.views.guard import client_address
from disks.views.rendering import render_page

PAGE, FRAGMENT = "disks/convert.html", "disks/_convert_plan.html"


@require_http_methods(["GET", "POST"])
def convert(request: HttpRequest, disk_id: int) -> HttpResponse:
    """GET shows the dry run for what the address says; POST starts the job."""
    disk = get_object_or_404(Disk.objects.select_related("root", "parent_link"), pk=disk_id)
    if request.method == "GET":
        context = _context(disk, ConvertForm(request.GET, disk=disk))
        return render_page(request, PAGE, context, fragment=FRAGMENT)
    if (earlier := plans.earlier_job(request)) is not None:
        return HttpResponseRedirect(reverse("job", args=[earlier.pk]))
    form = ConvertForm(request.POST, disk=disk)
    context = _context(disk, form, sent=request.POST)
    return plans.start(
        request,
        PAGE,
        FRAGMENT,
        context,
        fingerprint=context["plan"] and context["plan"]["fingerprint"],
        ask=lambda said, key: converting.request(
            disk,
            **form.options(),
            user=request.user,
            seen=said.cleaned_data["seen"],
            idempotency_key=key,
            address=client_address(request),
        ),
    )


def _context(disk: Disk, form: ConvertForm, sent: Any = None) -> dict[str, Any]:
    chain = chains.chain_of(disk)
    context: dict[str, Any] = {
        "disk": disk,
        "form": form,
        "chain": drawn_chain(chain, disk) if len(chain) > 1 else None,
        "plan": None,
        "refused": None,
        "stale": False,
    }
    if not form.is_valid():
        return context
    try:
        plan = converting.plan(disk, **form.options())
    except (ImageError, Refusal) as error:
        return context | {"refused": plans.as_error(error)}
    document = plan.as_dict()
    return context | {
        "plan": document,
        "refused": plans.as_error(document["refused"]),
        "commands_text": "\n".join(document["commands"]),
        "verb": f"Convert to {form.cleaned_data['name']}",
        "guess": estimates.guess(
            document["bytes_to_copy"],
            (Job.Kind.CONVERT, Job.Kind.MERGE, Job.Kind.COMPACT),
            paths=[*plan.exclusive, *plan.shared],
        ),
        "declaration": DeclarationForm(sent, needs_offline=False),
        "key": sent.get("key") if sent is not None else plans.new_key(),
        "seen": sealed(document["fingerprint"]),
    }
