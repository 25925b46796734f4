"""PowerShell for the Windows host: text only, in which no name can become a command.

Names come from whoever made the files. Each is a literal in single quotes, where PowerShell
expands nothing; what cannot be printed stands as its number, so that a name neither ends a
line nor turns the text around. In comments names are escaped instead.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence

from disks.operations import windows
from disks.operations.paths import Roots
from disks.operations.windows import shown

# PowerShell takes all of these for a single quote.
_SINGLE_QUOTES = re.compile("['\u2018\u2019\u201a\u201b]")


def quoted(text: str) -> str:
    """A text as a PowerShell expression that gives exactly this text.

    Bytes of a name that are no UTF-8 become U+FFFD: Windows can have no such name.
    """
    pieces: list[str] = []
    plain = ""
    for character in text:
        if character.isprintable():
            plain += character
            continue
        if plain:
            pieces.append(_literal(plain))
            plain = ""
        pieces.append(_by_number(0xFFFD if "\ud800" <= character <= "\udfff" else ord(character)))
    if plain or not pieces:
        pieces.append(_literal(plain))
    if len(pieces) == 1 and pieces[0].startswith("'"):
        return pieces[0]
    # The first operand makes it text, whatever follows.
    return f"({' + '.join(pieces if pieces[0].startswith(chr(39)) else [chr(39) * 2, *pieces])})"


def _literal(text: str) -> str:
    return "'" + _SINGLE_QUOTES.sub(lambda found: found[0] * 2, text) + "'"


def _by_number(number: int) -> str:
    if number > 0xFFFF:
        return f"[char]::ConvertFromUtf32({number})"
    return f"[char]{number}"


class Names:
    """How the script calls files: by Windows paths where they are known, else from a folder.

    unmapped  files for which no Windows view is known; they are named from `folder` on
    """

    def __init__(self, roots: Roots, folder: str) -> None:
        self._roots = roots
        self._folder = folder
        self.unmapped: list[str] = []

    def __call__(self, path: str) -> str:
        known = self._roots.windows_path(path)
        if known is not None:
            return known
        if path not in self.unmapped:
            self.unmapped.append(path)
        parts = [part for part in path.split("/") if part]
        return windows.relative([part for part in self._folder.split("/") if part], parts)


def point_machine(old: str, new: str) -> str:
    """The command that has a virtual machine use another file from now on."""
    return (
        f"Get-VM | Get-VMHardDiskDrive | Where-Object Path -eq {quoted(old)} "
        f"| Set-VMHardDiskDrive -Path {quoted(new)}"
    )


_HEAD = """
#Requires -Version 3.0
#Requires -RunAsAdministrator
#Requires -Modules Hyper-V

[CmdletBinding(SupportsShouldProcess = $true, ConfirmImpact = 'High')]
param({parameters})

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

# With -WhatIf what is wrong is told, and the rest shown; else it ends the script.
function Stop-Here([string] $Why) {
    if ($WhatIfPreference) { Write-Warning $Why } else { throw $Why }
}

# A step that is done leaves a file beside the child: the child itself, renamed, or a mark.
function Test-Merged([string] $Child) {
    return (Test-Path -LiteralPath ($Child + '.merged'))
}

# Both files are there, nobody has them attached, and the child names this very parent.
function Assert-Link([string] $Child, [string] $Parent) {
    foreach ($path in $Parent, $Child) {
        if (-not (Test-Path -LiteralPath $path -PathType Leaf)) {
            Stop-Here "There is no file $path. Nothing was merged into $Parent."
            return
        }
    }
    try {
        $disk = Get-VHD -Path $Child
        $below = Get-VHD -Path $Parent
    } catch {
        Stop-Here "Hyper-V cannot read $Child with its parents: $($_.Exception.Message)"
        return
    }
    if ($disk.Attached -or $below.Attached) {
        Stop-Here "$Child or $Parent is in use. Shut the machine down, or dismount the disk."
    }
    $expected = (Get-Item -LiteralPath $Parent).FullName
    if ($disk.ParentPath -ne $expected) {
        Stop-Here "The parent of $Child is $($disk.ParentPath), not $expected. Nothing was merged."
    }
}

# True when this step is to be done now.
function Test-Step([string] $Child, [string] $Parent) {
    if (Test-Merged $Child) {
        Write-Host "Merged before: $Child"
        return $false
    }
    Assert-Link $Child $Parent
    if (-not (Test-VHD -Path $Child)) {
        Stop-Here "Test-VHD finds $Child damaged. Nothing was merged into $Parent."
    }
    return $PSCmdlet.ShouldProcess($Child, "Merge into $Parent")
}

# What is left of a merged child is of no use: it is renamed, so that nobody attaches it.
function Complete-Step([string] $Child) {
    if (Test-Path -LiteralPath $Child) {
        $name = (Get-Item -LiteralPath $Child).Name
        Rename-Item -LiteralPath $Child -NewName ($name + '.merged')
    } else {
        Set-Content -LiteralPath ($Child + '.merged') -Value 'Merged into its parent.'
    }
    Write-Host "Merged: $Child"
}
"""

_ABOUT = (
    "Merges checkpoints that belong to no machine any more, leaf first.",
    "",
    "Before: back the disks up, and shut down every machine that uses one of them.",
    "Look first:  .\\merge-pile.ps1 -WhatIf      Run:  .\\merge-pile.ps1",
    "It stops at the first thing that is wrong. Run again, it goes on where it stopped.",
    "Merge-VHD changes the parents in place: that cannot be undone.",
)


class Script:
    """Collects what a script is to do; text() gives the whole."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._lines: list[str] = []
        self._parameters = ""
        self.steps = 0

    def comment(self, text: str = "") -> None:
        """One line of comment, whatever stands in the text."""
        self._lines.append(f"# {shown(text)}" if text else "#")

    def unread(self, paths: Sequence[str]) -> None:
        """Go on only with -Unrelated: these cannot be read, and may build on what is merged."""
        self._parameters = "[switch] $Unrelated"
        self.comment()
        self.comment("These cannot be read, so nobody knows whether they build on a disk below:")
        for path in paths:
            self.comment(f"  {path}")
        self._lines.append(
            "if (-not $Unrelated) { Stop-Here 'Some files cannot be read; the script names them. "
            "One that builds on a disk that is merged would be ruined. Once you know that none "
            "does, start it with -Unrelated.' }"
        )

    def chain(self, paths: Sequence[str], sizes_bytes: Mapping[str, int]) -> None:
        """Merge a chain, given leaf first, pair by pair into its last disk."""
        named = [self._names(path) for path in paths]
        self._lines += ["", "# Before anything is changed: the whole chain is as it was planned."]
        for child, parent in itertools.pairwise(named):
            self._lines.append(
                f"if (-not (Test-Merged {quoted(child)})) "
                f"{{ Assert-Link {quoted(child)} {quoted(parent)} }}"
            )
        count = len(paths) - 1
        for number in range(1, len(paths)):
            child, parent = named[number - 1], named[number]
            what, into = (os.path.basename(path) for path in paths[number - 1 : number + 1])
            self._lines.append("")
            size = f"{sizes_bytes[paths[number - 1]]:,} bytes"
            self.comment(f"Step {number} of {count}: {what} ({size}) into {into}")
            self._lines += [
                f"if (Test-Step {quoted(child)} {quoted(parent)}) {{",
                f"    Merge-VHD -Path {quoted(child)} -DestinationPath {quoted(parent)} "
                "-Confirm:$false",
                f"    Complete-Step {quoted(child)}",
                "}",
            ]
            self.steps += 1
        self._lines.append("")
        self.comment("A machine that used the first disk is to use the last one from now on:")
        self.comment(point_machine(named[0], named[-1]))

    def link(self, child: str, parent: str) -> None:
        """Write the path into a header that does not lead to its parent."""
        named, below = self._names(child), self._names(parent)
        self._lines += [
            f"if (-not (Test-Merged {quoted(named)}) -and "
            f"$PSCmdlet.ShouldProcess({quoted(named)}, 'Set its parent to ' + {quoted(below)})) {{",
            f"    Set-VHD -Path {quoted(named)} -ParentPath {quoted(below)} -Confirm:$false",
            "}",
        ]

    def text(self, folder: str) -> str:
        """The script, lines ended by LF; U+FEFF in front where a name needs it.

        Windows PowerShell 5 takes a file without that mark for one of its own code page.
        """
        head = [f"# {line}".rstrip() for line in _ABOUT]
        if self._names.unmapped:
            head += [
                "#",
                "# It is not known how Windows names the folder, so files are named from there on.",
                "# Start the script in that folder, which is called here:",
                f"#   {shown(folder)}",
            ]
        begin = _HEAD.replace("{parameters}", self._parameters)
        whole = "\n".join([*head, begin, *self._lines, ""])
        return whole if whole.isascii() else "\ufeff" + whole
