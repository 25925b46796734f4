"""Where a new disk goes: a writable storage root, a folder in it, a name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from django import forms
from django.db.models import QuerySet

from disks.engine.formats import FORMATS, Format
from disks.engine.new_image import Target
from disks.models import Disk, StorageRoot
from disks.services.roots import has_folder

LONGEST_PATH = 4_096
_INPUT = {"class": "form-control", "autocomplete": "off", "spellcheck": "false"}


def writable_roots() -> QuerySet[StorageRoot]:
    """Roots that may be written to now."""
    online = StorageRoot.objects.filter(read_only=False, state=StorageRoot.State.ONLINE)
    return online.order_by("name")


class RootChoice(forms.ModelChoiceField):
    """Roots that may be written to now."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            queryset=writable_roots(),
            empty_label=None,
            widget=forms.Select(attrs={"class": "form-select"}),
            error_messages={
                "required": "Choose a storage root that may be written to.",
                "invalid_choice": "This storage root is read-only, offline or gone.",
            },
            **options,
        )

    def label_from_instance(self, root: Any) -> str:
        return str(root.name)


def place_beside(disk: Disk, said: Mapping[str, Any]) -> dict[str, str]:
    """The storage root and folder of a new file, as a form's values: what was said, or beside disk.

    A root that is read-only gives way to one that is not. In another root than the disk's, its
    folder is proposed where there is one of that name, else the root itself.
    """
    beside = os.path.dirname(disk.relative_path)
    writable = {str(root.pk): root for root in writable_roots()}
    key = str(said.get("root") or disk.root_id)
    if not said.get("root") and key not in writable and writable:
        key = next(iter(writable))
    folder = str(said["folder"]) if said.get("folder") is not None else beside
    other = writable.get(key)
    if other is not None and other.pk != disk.root_id and folder == beside:
        folder = beside if has_folder(other, beside) else ""
    return {"root": key, "folder": folder}


def folder_field(**options: Any) -> forms.CharField:
    return forms.CharField(
        label="Folder",
        required=False,
        max_length=LONGEST_PATH,
        strip=False,
        widget=forms.TextInput(attrs=_INPUT | {"placeholder": "the root itself"}),
        **options,
    )


def name_field(**options: Any) -> forms.CharField:
    return forms.CharField(
        label="Name", max_length=255, widget=forms.TextInput(attrs=_INPUT), **options
    )


def checked_folder(text: str) -> str:
    """A folder below a root as typed, either slash; what would leave the root is refused.

    The storage itself is asked only later, below the root and without following links.
    """
    _refuse_controls(text)
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        raise forms.ValidationError("The folder must lie in the storage root.")
    return "/".join(parts)


def checked_name(text: str) -> str:
    """A file name without a folder."""
    _refuse_controls(text)
    if "/" in text or "\\" in text or text in (".", ".."):
        raise forms.ValidationError("Give a name without a folder.")
    return text


def format_of(name: str) -> Format | None:
    """The format whose extension the name has; None for "disk 1.5", which has none."""
    return next((one for one in FORMATS if _is_named(name, one)), None)


def named_as(name: str, target: Target, among: Iterable[Target] = FORMATS) -> str:
    """The name with an extension of target: its own, or one in place of another's among them."""
    if _is_named(name, target):
        return name
    has = any(_is_named(name, one) for one in among)
    stem = os.path.splitext(name)[0] if has else name
    # .avhd and .avhdx say that it is a checkpoint, which a new disk is not.
    return f"{stem}{target.extensions[0]}"


def _is_named(name: str, target: Target) -> bool:
    return name.lower().endswith(target.extensions)


def _refuse_controls(text: str) -> None:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise forms.ValidationError("This holds characters that no name may have.")


def host_path(root: StorageRoot, folder: str, name: str) -> str:
    return os.path.join(root.path, folder, name)
