"""Which disk a VHD claims to be: another identity, or all that another disk says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from disks.engine.changes import HeaderRewrite, Write
from disks.engine.images import DiskType
from disks.engine.vhd.footer import Footer
from disks.engine.vhd.raw_view import footer_changes
from disks.engine.vhd.text import identity_bytes, identity_text

if TYPE_CHECKING:
    from disks.engine.vhd.image import VhdImage


def plan_identity(image: VhdImage, identity: str) -> HeaderRewrite:
    """See `Image`."""
    return _footers(image, image.footer._replace(unique_id=identity_bytes(identity)))


def plan_face(image: VhdImage, of: VhdImage) -> HeaderRewrite:
    """See `Image`. Type and data offset stay; what looks for a tdbatmap is told that none is."""
    traits = of.copy_traits()
    application, version, host_os = traits["creator"]
    cylinders, heads, track = traits["geometry"]
    theirs = of.footer
    changed = image.footer._replace(
        features=theirs.features,
        timestamp=theirs.timestamp,
        creator_application=application,
        creator_version=version,
        creator_host_os=host_os,
        original_size=theirs.original_size,
        current_size=theirs.current_size,
        cylinders=cylinders,
        heads=heads,
        sectors_per_track=track,
        unique_id=theirs.unique_id,
        hidden=theirs.hidden,
    )
    return _footers(image, changed)


def _footers(image: VhdImage, changed: Footer) -> HeaderRewrite:
    """The footer at the end, which counts, then its copy."""
    if image.write_refusal is not None:
        raise image.write_refusal
    end, packed = image.footers.end, changed.pack()
    steps = [(Write(end.offset, packed[: end.length]),)]
    if image.disk_type is not DiskType.FIXED:
        steps.append((Write(0, packed),))
    return HeaderRewrite(
        tuple(steps),
        image.file.size_bytes,
        tuple(footer_changes(end.raw, packed, end.offset)),
        identity_after=identity_text(changed.unique_id),
    )
