"""What a new disk shall be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import forms

from disks.engine.formats import FORMATS, Format, by_name
from disks.engine.new_image import Choices
from disks.engine.units import size_text
from disks.forms.new_file import (
    RootChoice,
    checked_folder,
    checked_name,
    folder_field,
    format_of,
    host_path,
    name_field,
    named_as,
)
from disks.forms.size import UNITS, in_bytes, size_field, unit_field
from disks.models import Disk

TYPES = [
    ("dynamic", "Dynamic: grows as it is filled"),
    ("fixed", "Fixed: takes its whole size at once"),
    ("differencing", "Differencing: holds the changes to a parent"),
]
FORMAT_WORDS = {
    "vhdx": "VHDX: Hyper-V since 2012, safe against power cuts",
    "vhd": "VHD: older hosts, Azure, Virtual Server",
}
USUAL_FORMAT = "vhdx"
_SELECT = {"class": "form-select"}


def limit_words(form: Format) -> str:
    """The largest disk that the format can hold, exactly: "2,040 GB"."""
    largest = form.choices.largest_bytes
    unit = [name for name, size in UNITS.items() if largest % size == 0][-1]
    return f"{largest // UNITS[unit]:,} {unit}"


class CreateForm(forms.Form):
    """The choices of block and sector sizes are those of the chosen format.

    was_format: the one that the page was drawn with. Who chooses another one gets its extension;
    who types an extension gets its format.
    """

    disk_type = forms.ChoiceField(label="Kind", choices=TYPES, widget=forms.RadioSelect)
    format = forms.ChoiceField(
        label="Format",
        choices=[
            (one.name, f"{FORMAT_WORDS[one.name]} (up to {limit_words(one)})")
            for one in reversed(FORMATS)
        ],
        required=False,
        widget=forms.RadioSelect,
    )
    was_format = forms.CharField(required=False, widget=forms.HiddenInput)
    root = RootChoice(label="Storage root")
    folder = folder_field()
    name = name_field()
    size = size_field(required=False)
    unit = unit_field()
    block_size = forms.CharField(
        label="Block size", required=False, widget=forms.Select(attrs=_SELECT)
    )
    sector_size = forms.CharField(
        label="Logical sectors",
        required=False,
        widget=forms.Select(attrs=_SELECT),
        help_text="4 KB only for guests that can boot from such disks; parents and children of "
        "one chain have the same.",
    )
    parent = forms.IntegerField(required=False, min_value=1, max_value=2**53)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        usual = self.chosen_format.choices
        self._offer("block_size", usual.block_bytes, "as Windows makes them")
        self._offer("sector_size", usual.sector_bytes, "as usual")

    def _offer(self, name: str, sizes: Iterable[int], usual: str) -> None:
        first, *others = sizes
        choices = [(str(first), f"{size_text(first)}, {usual}")]
        choices += [(str(size), size_text(size)) for size in others]
        self.fields[name].widget.choices = choices

    @property
    def chosen_format(self) -> Format:
        """What was chosen so far, by the buttons or by the name; else the usual one."""
        said = self.data if self.is_bound else self.initial
        chosen, named = said.get("format"), format_of(said.get("name") or "")
        if named is not None and chosen in (None, "", said.get("was_format")):
            return named
        return by_name(chosen if chosen in FORMAT_WORDS else USUAL_FORMAT)

    def clean_format(self) -> str:
        return self.chosen_format.name

    def clean_folder(self) -> str:
        return checked_folder(self.cleaned_data["folder"])

    def clean_name(self) -> str:
        return checked_name(self.cleaned_data["name"])

    def clean_block_size(self) -> int | None:
        return self._size("block_size", self.chosen_format.choices.block_bytes)

    def clean_sector_size(self) -> int | None:
        return self._size("sector_size", self.chosen_format.choices.sector_bytes)

    def _size(self, name: str, possible: tuple[int, ...]) -> int | None:
        """What was chosen; None, the usual one, for what another format had to offer."""
        text = self.cleaned_data[name]
        return next((size for size in possible if str(size) == text), None)

    def clean_parent(self) -> Disk | None:
        number = self.cleaned_data["parent"]
        if number is None:
            return None
        found = Disk.objects.select_related("root").filter(pk=number).first()
        if found is None:
            raise forms.ValidationError("This parent is not in the catalog any more.")
        return found

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if cleaned.get("disk_type") == "differencing":
            if "parent" in cleaned and cleaned["parent"] is None:
                self.add_error("parent", "Choose the parent of the differencing disk.")
            self.errors.pop("size", None)
        elif "size" in cleaned and cleaned.get("size") is None:
            self.add_error("size", "Say how large the disk shall be.")
        return cleaned

    @property
    def is_child(self) -> bool:
        return bool(self.cleaned_data["disk_type"] == "differencing")

    @property
    def sector_bytes(self) -> int:
        usual: Choices = self.chosen_format.choices
        return self.cleaned_data["sector_size"] or usual.sector_bytes[0]

    @property
    def size_bytes(self) -> int | None:
        """The virtual size in whole sectors; None for a differencing disk."""
        cleaned = self.cleaned_data
        if self.is_child or cleaned.get("size") is None:
            return None
        size = in_bytes(cleaned["size"], cleaned.get("unit") or "")
        return size // self.sector_bytes * self.sector_bytes

    @property
    def file_name(self) -> str:
        """The name with the format's extension; a child's format is its parent's."""
        form = self.chosen_format
        parent: Disk | None = self.cleaned_data["parent"]
        if self.is_child and parent is not None and parent.format in FORMAT_WORDS:
            form = by_name(parent.format)
        return named_as(self.cleaned_data["name"], form)

    def options(self) -> dict[str, Any]:
        """Keywords of services.creating.plan and request."""
        cleaned = self.cleaned_data
        return {
            "path": host_path(cleaned["root"], cleaned["folder"], self.file_name),
            "disk_type": cleaned["disk_type"],
            "size_bytes": self.size_bytes,
            "parent": cleaned["parent"].path if self.is_child else None,
            "block_size_bytes": None if self.is_child else cleaned["block_size"],
            "sector_bytes": None if self.is_child else cleaned["sector_size"],
        }
