"""Jobs that are paused, held, limited, and wait for the clock or for room on their roots."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("disks", "0009_copy_move_delete"),
    ]

    operations = [
        migrations.AddField(
            model_name="job",
            name="held_at",
            field=models.DateTimeField(
                help_text="running: its worker waits with it, for it could not be gone on with",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="job",
            name="limit_bytes_per_second",
            field=models.PositiveBigIntegerField(
                help_text="null: as its storage roots say; 0: no limit", null=True
            ),
        ),
        migrations.AddField(
            model_name="job",
            name="not_before",
            field=models.DateTimeField(help_text="it starts then at the earliest", null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="outside_hours",
            field=models.BooleanField(
                default=False, help_text="it does not mind the hours of its storage roots"
            ),
        ),
        migrations.AddField(
            model_name="job",
            name="pause_requested_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="resume_at",
            field=models.DateTimeField(
                help_text="queued or paused: it waits for the clock, and goes on then by itself",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="job",
            name="stop_by",
            field=models.DateTimeField(help_text="it pauses then, or is cancelled", null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="waits_for_root",
            field=models.ForeignKey(
                help_text="as many jobs run there as it allows at once",
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to="disks.storageroot",
            ),
        ),
        migrations.AddField(
            model_name="storageroot",
            name="hours_begin",
            field=models.TimeField(help_text="long jobs run from here; null: always", null=True),
        ),
        migrations.AddField(
            model_name="storageroot",
            name="hours_end",
            field=models.TimeField(help_text="until here, across midnight if not later", null=True),
        ),
        migrations.AddField(
            model_name="storageroot",
            name="jobs_at_once",
            field=models.PositiveSmallIntegerField(
                default=0, help_text="jobs that move data here; 0: no limit"
            ),
        ),
        migrations.AddField(
            model_name="storageroot",
            name="limit_bytes_per_second",
            field=models.PositiveBigIntegerField(
                default=0, help_text="what each job may move here; 0: no limit"
            ),
        ),
        migrations.AlterField(
            model_name="job",
            name="cancellable",
            field=models.BooleanField(
                default=True,
                help_text="false once the commit has begun, and where data has moved in place",
            ),
        ),
    ]
