"""What the overview counts gets indexes of its own, and columns that it would else work out.

`chain_base` is a derived column that every scan renews: its rows need no check by the database,
which made SQLite take six times as long to write them. `root` begins two other indexes.
"""

import django.db.models.deletion
from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("disks", "0004_job_kinds_convert_expand")]

    operations = [
        migrations.AddField(
            model_name="disk",
            name="spare_bytes",
            field=models.BigIntegerField(
                null=True,
                help_text="room in the file that no block takes; null: little, or not known",
            ),
        ),
        migrations.AddField(
            model_name="parentlink",
            name="unmapped_folder",
            field=models.CharField(
                blank=True,
                max_length=400,
                help_text="a folder that the header of a child without parent names and no root maps",
            ),
        ),
        migrations.AlterField(
            model_name="disk",
            name="chain_base",
            field=models.ForeignKey(
                null=True,
                db_constraint=False,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="chain_members",
                to="disks.disk",
                help_text="none: the disk is its own base",
            ),
        ),
        migrations.AlterField(
            model_name="disk",
            name="root",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="disks",
                to="disks.storageroot",
            ),
        ),
        migrations.AlterField(
            model_name="parentlink",
            name="cause",
            field=models.CharField(
                blank=True,
                max_length=200,
                help_text="groups children that cannot be read because of one event; else empty",
            ),
        ),
        migrations.AddIndex(
            model_name="disk",
            index=models.Index(
                condition=Q(missing_since=None),
                fields=["disk_type", "child_count"],
                name="disk_leaves",
            ),
        ),
        migrations.AddIndex(
            model_name="disk",
            index=models.Index(
                condition=Q(missing_since=None, spare_bytes__isnull=False),
                fields=["spare_bytes"],
                name="disk_spare",
            ),
        ),
        migrations.AddIndex(
            model_name="parentlink",
            index=models.Index(
                fields=["cause", "status", "suggested", "child"], name="link_causes"
            ),
        ),
        migrations.AddIndex(
            model_name="parentlink",
            index=models.Index(fields=["unmapped_folder"], name="link_unmapped"),
        ),
    ]
