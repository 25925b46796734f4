"""What a change of headers is about, and the help that its sidecar gives a person."""

from __future__ import annotations

import os

from disks.operations.journal import Sidecar
from disks.operations.windows import shown

# What a change is about; the prefix of its fault points, and a word of its sidecar.
LINK = "relink"
REPAIR = "repair"
EXPAND = "expand"
MAKE_ROOM = "make-room"
COMPACT = "compact"
IDENTITY = "identity"
FACE = "face"
WORDS = {
    LINK: "change of its parent link",
    REPAIR: "repair of its headers",
    EXPAND: "expansion",
    MAKE_ROOM: "move of blocks that makes room for its expansion",
    COMPACT: "step of its compaction",
    IDENTITY: "change of its identity, or of the one that it knows its parent by",
    FACE: "change of its identity at the end of a merge",
}

_LINK_HELP = """\
The header of the disk {disk} was being changed by vdadmin when this was written, or the
change is done and this is kept so that it can be taken back.

With vdadmin:  manage.py disk recover FOLDER        (if the change was interrupted)
               manage.py disk undo-update DISK      (if it is done, to take it back)

"""

_REPAIR_HELP = """\
The headers of the disk {disk} were being repaired by vdadmin when this was written.

With vdadmin:  manage.py disk recover FOLDER

"""

_LOGGED_HELP = """\
Without it: the change goes through the disk's own log. Whoever opens the disk for writing next,
Windows for example, finds it done or not begun; nothing has to be put back.
"""

_EXPAND_HELP = """\
The disk {disk} was being made larger by vdadmin when this was written.

With vdadmin:  manage.py disk recover FOLDER

"""

_MAKE_ROOM_HELP = """\
Blocks of the disk {disk} were being moved by vdadmin when this was written, to make room for
an expansion. Its size and content are the same before and after that.

With vdadmin:  manage.py disk recover FOLDER

"""

_COMPACT_HELP = """\
The disk {disk} was being compacted in place by vdadmin when this was written. Its content is
the same before and after every step of that, and it may be compacted again at any time.

With vdadmin:  manage.py disk recover FOLDER

"""

_MERGE_HELP = """\
What the disk {disk} says about itself, or about the identity of its parent, was being changed
by vdadmin when this was written: a step of a merge in place.

With vdadmin:  manage.py disk recover FOLDER

"""
_HELP = {
    IDENTITY: _MERGE_HELP,
    FACE: _MERGE_HELP,
    LINK: _LINK_HELP,
    REPAIR: _REPAIR_HELP,
    EXPAND: _EXPAND_HELP,
    MAKE_ROOM: _MAKE_ROOM_HELP,
    COMPACT: _COMPACT_HELP,
}

_BY_HAND = """\
Without it, only while "state" below is "prepared", with the disk closed everywhere: every
entry of "x_pages" holds, in base64, what stood at "offset" before ("old"). Put it back, then
cut the file to "x_size_before" bytes. With Python, in this folder (SIDECAR is this file):

  python3 -c "import base64,json,sys; t=open(sys.argv[1],'rb').read(); \
r=json.loads(t[t.rindex(b'\\n'+bytes([123]))+1:]); d=open(r['name'],'r+b'); \
[(d.seek(p['offset']),d.write(base64.b64decode(p['old']))) for p in r['x_pages']]; \
d.truncate(r['x_size_before'])" SIDECAR
"""


def kind_of(sidecar: Sidecar) -> str:
    about = sidecar.record.get("about")
    return about if about in WORDS else LINK


def help_text(path: str, about: str, *, logged: bool) -> str:
    """The sidecar's plain text."""
    text = _HELP[about] + (_LOGGED_HELP if logged else _BY_HAND)
    return text.format(disk=shown(os.path.basename(path)))
