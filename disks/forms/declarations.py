"""What a person must say before anything is written, the same on every form."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django import forms
from django.core import signing

from disks.engine.files import FileIdentity
from disks.models import Disk, StorageRoot

_SALT = "disks.plan"


class DeclarationForm(forms.Form):
    """The declarations of one plan, its fingerprint and its key.

    seen  the plan's fingerprint as the page was drawn, signed: whoever sends another one
          has not seen what will be done
    key   makes a form that is sent twice one job
    only_reads  the reason why nothing needs to be declared: no file that exists is written
    """

    offline = forms.BooleanField(required=False)
    unmanaged = forms.BooleanField(required=False)
    seen = forms.CharField(max_length=100_000)
    key = forms.RegexField(r"^[0-9a-f]{32}$")

    def __init__(
        self,
        data: Any = None,
        *,
        needs_offline: bool = True,
        needs_unmanaged: bool = False,
        only_reads: bool = False,
    ) -> None:
        super().__init__(data)
        self.only_reads = only_reads
        self.needs_offline = needs_offline
        self.needs_unmanaged = needs_unmanaged

    def clean_offline(self) -> bool:
        said = bool(self.cleaned_data["offline"])
        if self.needs_offline and not said:
            raise forms.ValidationError(
                "Say that nobody has these disks open: a disk that is written while a machine "
                "runs on it is damaged, and Windows does not see our locks."
            )
        return said

    def clean_unmanaged(self) -> bool:
        said = bool(self.cleaned_data["unmanaged"])
        if self.needs_unmanaged and not said:
            raise forms.ValidationError(
                "Say that the manager is stopped, or does not know this disk any more."
            )
        return said

    @property
    def declared(self) -> bool:
        """True when somebody took the responsibility, by either of the two declarations."""
        return bool(self.cleaned_data["offline"] or self.cleaned_data["unmanaged"])

    def clean_seen(self) -> Any:
        return _unsealed(self.cleaned_data["seen"])


class MergeDeclarationForm(DeclarationForm):
    """One declaration more: that what could not be read is no sibling.

    unread     host paths of the files and folders that the plan could not read
    unrelated  the paths that were shown beside the checkbox, signed: it speaks of these only
    """

    unrelated = forms.CharField(max_length=1_000_000, required=False)

    def __init__(self, data: Any = None, *, unread: Collection[str] = (), **needs: bool) -> None:
        super().__init__(data, **needs)
        self.unread = unread

    def clean_unrelated(self) -> list[str]:
        sent = self.cleaned_data["unrelated"]
        said: list[str] = _unsealed(sent) if sent else []
        if not set(self.unread) <= set(said):
            raise forms.ValidationError(
                "Say that none of these builds on a disk that is merged: one that does would be "
                "ruined. If you do not know it, merge to a new disk."
            )
        return said


class TouchedDeclarationForm(DeclarationForm):
    """One declaration more: that a disk which has other times was written by nobody.

    needs_untouched: whether there is such a disk
    """

    only_touched = forms.BooleanField(required=False)

    def __init__(self, data: Any = None, *, needs_untouched: bool = False, **needs: bool) -> None:
        super().__init__(data, **needs)
        self.needs_untouched = needs_untouched

    def clean_only_touched(self) -> bool:
        said = bool(self.cleaned_data["only_touched"])
        if self.needs_untouched and not said:
            raise forms.ValidationError(
                "Say that nobody has written to it. If somebody has, write back into it what it "
                "held when the merge was stopped, from a backup or a snapshot."
            )
        return said


class ResumeForm(forms.Form):
    """What goes with *Resume*: that the disk that was shown (its file, signed) was only touched."""

    only_touched = forms.BooleanField(required=False)
    touched = forms.CharField(max_length=1_000, required=False)

    def clean_touched(self) -> FileIdentity | None:
        sent = self.cleaned_data["touched"]
        if not sent or not self.cleaned_data["only_touched"]:
            return None
        try:
            return FileIdentity.from_dict(_unsealed(sent))
        except (KeyError, TypeError, ValueError) as error:  # sealed, but something else
            raise forms.ValidationError("This form does not come from the console.") from error


def sealed(shown: Any) -> str:
    """What a page has shown (a fingerprint, paths) as its form carries it."""
    return signing.dumps(shown, salt=_SALT, compress=True)


def _unsealed(text: str) -> Any:
    try:
        return signing.loads(text, salt=_SALT)
    except signing.BadSignature as error:
        raise forms.ValidationError("This form does not come from the console.") from error


def needs_offline(disks: list[Disk]) -> bool:
    """True unless every root says that nobody else opens its disks."""
    return any(disk.root.opened_by != StorageRoot.OpenedBy.NOBODY for disk in disks)
