"""What the catalog keeps of VHDX disks, and the job that replays their log."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('disks', '0006_fill_counted_columns'),
    ]

    operations = [
        migrations.AddField(
            model_name='disk',
            name='file_write_guid',
            field=models.CharField(blank=True, help_text='another one after every opening for writing, where the format has it', max_length=36),
        ),
        migrations.AddField(
            model_name='disk',
            name='log_waits',
            field=models.BooleanField(default=False, help_text="the format's own log holds changes that are not in their place"),
        ),
        migrations.AddField(
            model_name='disk',
            name='virtual_disk_id',
            field=models.CharField(blank=True, db_index=True, help_text='shared by all disks of a chain, where the format has it', max_length=36),
        ),
        migrations.AlterField(
            model_name='disk',
            name='health',
            field=models.CharField(choices=[('healthy', 'Healthy'), ('notice', 'Look at this'), ('suspect', 'Parent was written'), ('broken', 'Chain broken'), ('damaged', 'Damaged'), ('not-a-disk', 'Not a disk'), ('in-use', 'In use'), ('unreadable', 'Unreadable'), ('missing', 'Missing')], default='healthy', max_length=20),
        ),
        migrations.AlterField(
            model_name='disk',
            name='own_health',
            field=models.CharField(choices=[('healthy', 'Healthy'), ('notice', 'Look at this'), ('suspect', 'Parent was written'), ('broken', 'Chain broken'), ('damaged', 'Damaged'), ('not-a-disk', 'Not a disk'), ('in-use', 'In use'), ('unreadable', 'Unreadable'), ('missing', 'Missing')], default='healthy', help_text='of the file alone, whatever its chain is like', max_length=20),
        ),
        migrations.AlterField(
            model_name='job',
            name='kind',
            field=models.CharField(choices=[('scan', 'Scan'), ('check', 'Check'), ('update-parent', 'Update parent path'), ('undo-update', 'Undo parent path update'), ('repair-plan', 'Repair parent paths'), ('undo-plan', 'Undo repair of parent paths'), ('repair', 'Repair headers'), ('replay-log', 'Replay log'), ('merge', 'Merge'), ('pile', 'Merge checkpoint piles'), ('compact', 'Compact'), ('convert', 'Convert'), ('expand', 'Expand'), ('create', 'Create'), ('restore', 'Restore from trash'), ('empty-trash', 'Empty trash')], max_length=20),
        ),
    ]
