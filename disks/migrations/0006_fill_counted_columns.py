"""The columns of 0004 for what is catalogued already; scans fill them from now on."""

from django.db import migrations
from django.db.models import F

JOINING = ("found", "in-use")
SPARE_WORTH_BYTES = 64 * 1024**2


def fill(apps, schema_editor):
    disks = apps.get_model("disks", "Disk").objects
    spare = F("file_size_bytes") - F("blocks_allocated") * F("block_size_bytes")
    with_blocks = disks.filter(disk_type__in=("dynamic", "differencing"), blocks_allocated__gte=0)
    with_blocks.annotate(spare=spare).filter(spare__gt=SPARE_WORTH_BYTES).update(spare_bytes=spare)

    links = apps.get_model("disks", "ParentLink").objects
    # A cause speaks of a child that is there and broken; others carried one, too.
    of_broken = links.filter(child__health="broken", child__missing_since=None)
    links.exclude(cause="").exclude(pk__in=of_broken.values("pk")).update(cause="")
    changed = []
    for link in links.exclude(status__in=JOINING).only("trace").iterator(1_000):
        link.unmapped_folder = unmapped_folder(link.trace)
        if link.unmapped_folder:
            changed.append(link)
        if len(changed) >= 1_000:
            links.bulk_update(changed, ["unmapped_folder"])
            changed.clear()
    links.bulk_update(changed, ["unmapped_folder"])


def unmapped_folder(trace):
    for step in trace:
        if step["verdict"] == "unmapped":
            return step["raw"].replace("/", "\\").rpartition("\\")[0][:400]
    return ""


class Migration(migrations.Migration):
    dependencies = [("disks", "0005_counted_by_indexes")]

    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
