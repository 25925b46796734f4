"""Facts for people that only the file tells, not the catalog."""

from __future__ import annotations

from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.models import Disk
from disks.services import roots

_GEOMETRY = "Geometry"


def geometry(disk: Disk) -> str:
    """Cylinders/heads/sectors as the footer says, read now; "" where there are none to read."""
    if not disk.disk_type or disk.missing_since is not None:
        return ""
    scope = roots.operation_roots()
    try:
        with scope.open(disk.path) as file:
            rows = open_image(file).properties()
    except ImageError:
        return ""
    finally:
        scope.close()
    return next((value for label, value in rows if label.startswith(_GEOMETRY)), "")
