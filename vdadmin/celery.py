"""The Celery application: it carries ids of jobs, nothing else."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vdadmin.settings")

app = Celery("vdadmin")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["disks"])

# What every worker is started with. Workers need not know of each other: the rows do.
WORKER_ARGUMENTS = ["--pool=prefork", "--without-gossip", "--without-mingle", "--without-heartbeat"]
