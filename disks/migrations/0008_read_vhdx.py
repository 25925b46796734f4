"""VHDX disks were listed and not read: the next scan reads them, whatever their names are."""

from django.db import migrations


def forget(apps, schema_editor):
    disks = apps.get_model("disks", "Disk").objects
    state = {
        "health": "unreadable",
        "own_health": "unreadable",
        "health_code": "",
        "sentence": "This disk was not read yet; the next scan reads it.",
        "findings": [],
        "mtime_ns": None,
    }
    disks.filter(own_health="not-read", missing_since=None).update(**state)
    # One that is missing keeps its verdict, and is read when it comes back.
    disks.filter(own_health="not-read").update(own_health="unreadable", mtime_ns=None)
    disks.filter(health="not-read").update(health="missing")
    # Files that were passed over, because their names promise no disk.
    apps.get_model("disks", "OtherFile").objects.all().delete()


class Migration(migrations.Migration):
    dependencies = [("disks", "0007_vhdx")]

    operations = [migrations.RunPython(forget, migrations.RunPython.noop)]
