"""Declaring a storage root, and changing what is said about one."""

from __future__ import annotations

import os
from typing import Any

from django import forms

from disks.engine.units import MIB
from disks.forms.timing import ClockField, RateField
from disks.models import StorageRoot
from disks.services.root_declarations import Declaration
from disks.templatetags.names import odd_character

SCHEDULES = (
    (15, "Every 15 minutes"),
    (60, "Every hour"),
    (360, "Every 6 hours"),
    (1440, "Every day"),
    (0, "By hand only"),
)


def _control(**attributes: str) -> dict[str, str]:
    return {"class": "form-control"} | attributes


class Lines(forms.CharField):
    """Several values, one in each line."""

    widget = forms.Textarea

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value) or ""
        return [line.strip() for line in text.splitlines() if line.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return self.to_python(data) != (initial or [])

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value


class RootForm(forms.Form):
    """What an administrator says about a root that exists."""

    name = forms.CharField(
        max_length=80, widget=forms.TextInput(attrs=_control()), label="Name on these pages"
    )
    opened_by = forms.ChoiceField(
        label="Who opens its disks",
        choices=StorageRoot.OpenedBy.choices,
        initial=StorageRoot.OpenedBy.OTHER,  # the careful answer, until somebody knows better
        widget=forms.Select(attrs={"class": "form-select"}),
        help_text=(
            "Windows and hypervisors ignore the console's locks. Unless nobody else opens these "
            "disks, every job that writes asks for the declaration that they are offline."
        ),
    )
    writable = forms.BooleanField(
        required=False,
        label="The console may change disks here",
        widget=forms.CheckboxInput(attrs={"class": "form-check-input"}),
        help_text="Without this, disks are scanned and shown, and every button that writes is off.",
    )
    windows_views = Lines(
        required=False,
        label="How Windows sees this folder",
        widget=forms.Textarea(
            attrs=_control(rows="3", placeholder="D:\\VMs\n\\\\nas\\vms", spellcheck="false")
        ),
        help_text=(
            "One in each line, the preferred one first: a drive path, a share, or a cluster "
            "volume. Parent paths inside the disks are Windows paths; this is how they are found "
            "here, and how new ones are written."
        ),
    )
    excluded_folders = Lines(
        required=False,
        label="Folders left out",
        widget=forms.Textarea(attrs=_control(rows="2", spellcheck="false")),
        help_text=(
            "Names of folders, one in each line, at any depth. Trash, snapshot and recycle "
            "folders are left out anyway."
        ),
    )
    scan_every_minutes = forms.TypedChoiceField(
        label="Scan",
        coerce=int,
        choices=SCHEDULES,
        initial=60,
        widget=forms.Select(attrs={"class": "form-select"}),
    )

    limit_mb = RateField(
        required=False,
        label="All jobs together move at most (MB/s)",
        help_text=(
            "Empty: no limit. Copying and the proof count alike; jobs that run at the same time "
            "share it evenly. A job for which another limit is chosen is not counted."
        ),
    )

    hours_begin = ClockField(
        required=False,
        label="Long jobs run from",
        help_text="Empty: at any time. Long are jobs that move data.",
    )
    hours_end = ClockField(
        required=False,
        label="Long jobs run until",
        help_text=(
            "By the console's clock; a time that is not later than the first is one of the next "
            "morning. What still runs then stops at the next safe place and goes on by itself "
            "when the hours begin again: work in place pauses, a copy waits with its worker."
        ),
    )
    jobs_at_once = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=1_000,
        label="Jobs that move data here at once",
        widget=forms.NumberInput(attrs=_control(inputmode="numeric")),
        help_text=(
            "Empty: as many as there are workers. Others wait, first come, first served. Scans, "
            "checks and repairs of headers are not counted; a new fixed disk is."
        ),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        every = self.initial.get("scan_every_minutes")
        field = self.fields["scan_every_minutes"]
        if isinstance(every, int) and every not in dict(SCHEDULES):
            field.choices = [(every, f"Every {every} minutes"), *SCHEDULES]  # type: ignore[attr-defined]

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if any(odd_character(character) for character in name):
            raise forms.ValidationError("Hidden characters cannot be used in a name.")
        return name

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        begin, end = cleaned.get("hours_begin"), cleaned.get("hours_end")
        wrong = "hours_begin" in self.errors or "hours_end" in self.errors
        if (begin is None) != (end is None) and not wrong:
            missing = "hours_begin" if begin is None else "hours_end"
            self.add_error(missing, "Give both times, or none.")
        elif begin is not None and begin == end:
            self.add_error("hours_end", "That would be none, or all: give another time.")
        return cleaned

    def _hours(self) -> str:
        begin, end = self.cleaned_data["hours_begin"], self.cleaned_data["hours_end"]
        return f"{begin:%H:%M}-{end:%H:%M}" if begin and end else ""

    def declaration(self) -> Declaration:
        said = self.cleaned_data
        return Declaration(
            name=said["name"],
            opened_by=said["opened_by"],
            read_only=not said["writable"],
            windows_views=said["windows_views"],
            excluded_folders=said["excluded_folders"],
            scan_every_minutes=said["scan_every_minutes"],
            limit_bytes_per_second=(said["limit_mb"] or 0) * MIB,
            jobs_at_once=said["jobs_at_once"] or 0,
            hours=self._hours(),
        )

    @staticmethod
    def initial_of(root: StorageRoot) -> dict[str, Any]:
        return {
            "name": root.name,
            "opened_by": root.opened_by,
            "writable": not root.read_only,
            "windows_views": [view.prefix for view in root.windows_views.all()],
            "excluded_folders": list(root.excluded_folders),
            "scan_every_minutes": root.scan_every_minutes,
            "hours_begin": root.hours_begin,
            "hours_end": root.hours_end,
            "jobs_at_once": root.jobs_at_once or None,
            "limit_mb": -(-root.limit_bytes_per_second // MIB) or None,
        }


class NewRootForm(RootForm):
    """A new root: one of the allowed folders, and a path below it; never a path of its own."""

    base = forms.TypedChoiceField(
        label="Below", coerce=int, widget=forms.Select(attrs={"class": "form-select"})
    )
    folder = forms.CharField(
        label="Folder",
        required=False,
        max_length=4000,
        strip=False,
        widget=forms.TextInput(
            attrs=_control(placeholder="hyperv/production", spellcheck="false", autocomplete="off")
        ),
        help_text="Relative to the allowed folder; empty means the allowed folder itself.",
    )
    field_order = ("base", "folder", "name", "opened_by", "writable", "windows_views")

    def __init__(self, allowed: list[str], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.allowed = allowed
        self.fields["base"].choices = list(enumerate(allowed))  # type: ignore[attr-defined]
        self.fields["name"].required = False
        self.fields["name"].help_text = "Empty: the folder's own name."

    def clean_folder(self) -> str:
        folder = self.cleaned_data["folder"].strip().strip("/")
        parts = folder.split("/") if folder else []
        if any(part in ("", ".", "..") for part in parts) or "\\" in folder:
            raise forms.ValidationError(
                "Give a folder below the allowed one, with / between names and without “..”."
            )
        if any(ord(character) < 32 for character in folder):
            raise forms.ValidationError("Control characters cannot be used here.")
        return folder

    def path(self) -> str:
        """The full path on this host; only with a valid form."""
        base = self.allowed[self.cleaned_data["base"]]
        folder = self.cleaned_data["folder"]
        return os.path.join(base, folder) if folder else base
