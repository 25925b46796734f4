"""Jobs that copy chains, move and delete disks."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('disks', '0008_read_vhdx'),
    ]

    operations = [
        migrations.AlterField(
            model_name='job',
            name='kind',
            field=models.CharField(choices=[('scan', 'Scan'), ('check', 'Check'), ('update-parent', 'Update parent path'), ('undo-update', 'Undo parent path update'), ('repair-plan', 'Repair parent paths'), ('undo-plan', 'Undo repair of parent paths'), ('repair', 'Repair headers'), ('replay-log', 'Replay log'), ('merge', 'Merge'), ('pile', 'Merge checkpoint piles'), ('compact', 'Compact'), ('convert', 'Convert'), ('expand', 'Expand'), ('create', 'Create'), ('copy', 'Copy'), ('move', 'Move or rename'), ('delete', 'Delete'), ('restore', 'Restore from trash'), ('empty-trash', 'Empty trash')], max_length=20),
        ),
    ]
