"""Choosing a parent: from the list, or by typing a full path, Windows or local."""

from __future__ import annotations

import re
from typing import Any

from django import forms

from disks.models import Disk
from disks.services import parent_candidates
from disks.services.errors import Refusal

LONGEST_PATH = 4_096
_WINDOWS = re.compile(r"^([A-Za-z]:[\\/]|\\\\|//[^/]+/[^/]+)")


class ChooseParentForm(forms.Form):
    """One of the two, the typed path first: whoever types means it."""

    parent = forms.IntegerField(required=False, min_value=1, max_value=2**53)
    path = forms.CharField(required=False, max_length=LONGEST_PATH)
    ignore_identity = forms.BooleanField(required=False)

    def clean_path(self) -> str:
        text: str = self.cleaned_data["path"]
        if any(ord(character) < 32 or ord(character) == 127 for character in text):
            raise forms.ValidationError("This holds characters that no path may have.")
        return text.strip().strip('"')

    def clean_parent(self) -> Disk | None:
        number = self.cleaned_data["parent"]
        if number is None:
            return None
        found = Disk.objects.select_related("root").filter(pk=number).first()
        if found is None:
            raise forms.ValidationError("This disk is not in the catalog any more.")
        return found

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        cleaned["windows_path"] = None
        if cleaned.get("path"):
            try:
                cleaned["target"] = located(cleaned["path"])
            except forms.ValidationError as error:
                self.add_error("path", error)
            else:
                if _WINDOWS.match(cleaned["path"]):
                    cleaned["windows_path"] = cleaned["path"]
        elif cleaned.get("parent"):
            cleaned["target"] = cleaned["parent"].path
        return cleaned

    @property
    def target(self) -> str | None:
        """The chosen parent's path on this host; None while nothing usable is chosen."""
        return self.cleaned_data.get("target") if self.is_valid() else None


class ConfirmNameForm(forms.Form):
    """An identity mismatch is overruled only by typing the disk's name."""

    confirm_name = forms.CharField(max_length=1_000, required=False, strip=False)

    def __init__(self, data: Any, *, expected: str) -> None:
        super().__init__(data)
        self.expected = expected

    def clean_confirm_name(self) -> str:
        typed: str = self.cleaned_data["confirm_name"]
        if typed != self.expected:
            raise forms.ValidationError(
                "Type the name of the disk exactly as it is shown, to say that you know what "
                "another parent does to its content."
            )
        return typed


def located(text: str) -> str:
    """A typed path as a path on this host, below a root; raises ValidationError."""
    if not _WINDOWS.match(text) and not text.startswith("/"):
        raise forms.ValidationError(
            "Type a full path: as Windows sees it (C:\\VMs\\base.vhd, "
            "\\\\server\\share\\base.vhd) or on this host (/srv/vms/base.vhd)."
        )
    try:
        return parent_candidates.located(text)
    except Refusal as refusal:
        raise forms.ValidationError(refusal.sentence) from refusal
