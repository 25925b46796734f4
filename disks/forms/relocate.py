"""Where a disk goes, and what must be said before it does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from django import forms

from disks.forms.declarations import DeclarationForm
from disks.forms.new_file import (
    RootChoice,
    checked_folder,
    checked_name,
    folder_field,
    host_path,
    name_field,
    place_beside,
)
from disks.models import Disk
from disks.services.stored_json import readable


class FolderForm(forms.Form):
    """A folder of a storage root that may be written to."""

    root = RootChoice(label="Storage root")
    folder = folder_field()

    def __init__(self, data: Any, *, disk: Disk, **more: Any) -> None:
        """What was sent, with the disk's own place where nothing was; `more` stands as it is."""
        values = self.usual(disk)
        values |= {key: data[key] for key in values if data.get(key) not in (None, "")}
        super().__init__(values | place_beside(disk, data) | more)

    def usual(self, disk: Disk) -> dict[str, Any]:
        return {}

    def clean_folder(self) -> str:
        return checked_folder(self.cleaned_data["folder"])


class CopyForm(FolderForm):
    """chain: `whole` or `one`."""

    chain = forms.ChoiceField(choices=[("whole", "The whole chain"), ("one", "This disk alone")])

    def usual(self, disk: Disk) -> dict[str, Any]:
        return super().usual(disk) | {"chain": "whole"}

    def options(self) -> dict[str, Any]:
        """Keywords of services.relocating.plan_copy."""
        cleaned = self.cleaned_data
        folder = os.path.normpath(os.path.join(cleaned["root"].path, cleaned["folder"]))
        return {"folder": folder, "whole": cleaned["chain"] == "whole"}


class MoveForm(FolderForm):
    """breaks: children whose links stay as they are, so that they do not find the disk."""

    name = name_field()
    breaks = forms.MultipleChoiceField(required=False)

    def __init__(self, data: Any, *, disk: Disk, children: Sequence[str] = ()) -> None:
        """children: host paths of the disk's children, of which each may be given up."""
        told = data.getlist("breaks")
        given_up = [path for path in children if readable(path) in told]
        super().__init__(data, disk=disk, breaks=given_up)
        self.fields["breaks"].choices = [(path, readable(path)) for path in children]  # type: ignore[attr-defined]

    def usual(self, disk: Disk) -> dict[str, Any]:
        return super().usual(disk) | {"name": disk.name}

    def clean_name(self) -> str:
        return checked_name(self.cleaned_data["name"])

    def options(self) -> dict[str, Any]:
        """Keywords of services.relocating.plan_move."""
        cleaned = self.cleaned_data
        return {
            "target": host_path(cleaned["root"], cleaned["folder"], cleaned["name"]),
            "breaks": cleaned["breaks"],
        }


class RelocateDeclarationForm(DeclarationForm):
    """Two declarations more.

    relink        the links that the page lists are rewritten
    confirm_name  the disk's name, typed, where disks that build on it are given up
    """

    relink = forms.BooleanField(required=False)
    confirm_name = forms.CharField(
        required=False,
        strip=False,
        max_length=300,
        widget=forms.TextInput(
            attrs={"class": "form-control", "autocomplete": "off", "spellcheck": "false"}
        ),
    )

    def __init__(
        self, data: Any = None, *, needs_relink: bool = False, expected: str = "", **needs: bool
    ) -> None:
        super().__init__(data, **needs)
        self.needs_relink = needs_relink
        self.expected = expected

    def clean_relink(self) -> bool:
        said = bool(self.cleaned_data["relink"])
        if self.needs_relink and not said:
            raise forms.ValidationError(
                "Say that these links are rewritten: without that, the disks would not find their "
                "parent any more."
            )
        return said

    def clean_confirm_name(self) -> str:
        typed: str = self.cleaned_data["confirm_name"]
        if self.expected and typed != self.expected:
            raise forms.ValidationError("Type the disk's name exactly as it is shown.")
        return typed
