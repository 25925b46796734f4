"""How long jobs have worked over all their starts, and where their step was gone on with."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("disks", "0010_long_work"),
    ]

    operations = [
        migrations.AddField(
            model_name="job",
            name="step_start_bytes",
            field=models.BigIntegerField(
                default=0, help_text="done by then, perhaps before the job was paused"
            ),
        ),
        migrations.AddField(
            model_name="job",
            name="worked_seconds",
            field=models.FloatField(
                help_text="of all its workers, without what it was held; null: before that was counted",
                null=True,
            ),
        ),
        migrations.AlterField(
            model_name="storageroot",
            name="limit_bytes_per_second",
            field=models.PositiveBigIntegerField(
                default=0, help_text="what all jobs together may move here; 0: no limit"
            ),
        ),
        migrations.AlterField(
            model_name="job",
            name="step_started_at",
            field=models.DateTimeField(
                help_text="its first report of this start of the job; for rate and time left",
                null=True,
            ),
        ),
    ]
