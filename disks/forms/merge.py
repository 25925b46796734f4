"""Which levels are merged, and into what."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from django import forms

from disks.engine.formats import by_name
from disks.forms.new_file import (
    RootChoice,
    checked_folder,
    checked_name,
    folder_field,
    host_path,
    name_field,
    named_as,
    place_beside,
)
from disks.models import Disk

PARENT, NEW = "parent", "new"
IN_PLACE, COPY = "in-place", "copy"  # values of `way` in addresses and forms


class MergeForm(forms.Form):
    """chain: base first, the disk itself last."""

    into = forms.ChoiceField(choices=[(PARENT, "Into the parent"), (NEW, "To a new disk")])
    base = forms.ChoiceField()
    keep_name = forms.ChoiceField(
        choices=[("parent", "the parent's name"), ("child", "this disk's name")], required=False
    )
    way = forms.ChoiceField(choices=[(IN_PLACE, "In place"), (COPY, "By copy")], required=False)
    disk_type = forms.ChoiceField(
        choices=[("dynamic", "Dynamic"), ("fixed", "Fixed")], required=False
    )
    root = RootChoice(label="Storage root", required=False)
    folder = folder_field()
    name = name_field(required=False)

    def __init__(self, data: Any, *, chain: Sequence[Disk]) -> None:
        self.leaf = chain[-1]
        self.ancestors = {str(disk.pk): disk for disk in chain[:-1]}
        super().__init__(self._completed(data, chain))
        choices = [(pk, disk.name) for pk, disk in self.ancestors.items()]
        self.fields["base"].choices = choices  # type: ignore[attr-defined]

    def _completed(self, data: Any, chain: Sequence[Disk]) -> dict[str, Any]:
        """What was sent, with what a person would most likely choose where nothing was."""
        leaf = chain[-1]
        into = data.get("into") or PARENT
        usual = chain[-2] if into == PARENT else chain[0]
        stem, extension = os.path.splitext(leaf.name)
        form = by_name(leaf.format or "vhd")
        values = {
            "into": into,
            "base": str(usual.pk),
            "keep_name": "parent",
            "disk_type": "dynamic",
            "name": named_as(f"{stem}-merged{extension}", form),
        }
        given = {key: data.get(key) for key in values if data.get(key) not in (None, "")}
        if data.get("was") not in (None, "", into):
            given.pop("base", None)  # the lowest level belonged to the other target
        given["way"] = COPY if data.get("way") == COPY else IN_PLACE
        return values | place_beside(leaf, data) | given

    def clean_folder(self) -> str:
        return checked_folder(self.cleaned_data["folder"])

    def clean_name(self) -> str:
        name = self.cleaned_data["name"]
        return named_as(checked_name(name), by_name(self.leaf.format or "vhd")) if name else ""

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if cleaned.get("into") == NEW:
            if "root" in cleaned and not cleaned.get("root"):
                self.add_error("root", "Choose a storage root that may be written to.")
            if "name" in cleaned and not cleaned.get("name"):
                self.add_error("name", "Give the new disk a name.")
        else:
            self.errors.pop("root", None)
            self.errors.pop("name", None)
            self.errors.pop("folder", None)
        return cleaned

    @property
    def into_parent(self) -> bool:
        return bool(self.cleaned_data["into"] == PARENT)

    @property
    def in_place(self) -> bool:
        return self.into_parent and self.cleaned_data.get("way") != COPY

    def options(self) -> dict[str, Any]:
        """Keywords of services.merging.plan and request."""
        cleaned = self.cleaned_data
        base = self.ancestors[cleaned["base"]].path
        if self.into_parent:
            return {
                "into_parent": True,
                "base": base,
                "keep_name": cleaned.get("keep_name") or "parent",
                "in_place": self.in_place,
            }
        return {
            "to": host_path(cleaned["root"], cleaned["folder"], cleaned["name"]),
            "base": base,
            "disk_type": cleaned.get("disk_type") or "dynamic",
        }
