from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('disks', '0003_job_kind_pile'),
    ]

    operations = [
        migrations.AlterField(
            model_name='job',
            name='kind',
            field=models.CharField(choices=[('scan', 'Scan'), ('check', 'Check'), ('update-parent', 'Update parent path'), ('undo-update', 'Undo parent path update'), ('repair-plan', 'Repair parent paths'), ('undo-plan', 'Undo repair of parent paths'), ('repair', 'Repair footer'), ('merge', 'Merge'), ('pile', 'Merge checkpoint piles'), ('compact', 'Compact'), ('convert', 'Convert'), ('expand', 'Expand'), ('create', 'Create'), ('restore', 'Restore from trash'), ('empty-trash', 'Empty trash')], max_length=20),
        ),
    ]
