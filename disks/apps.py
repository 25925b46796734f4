from django.apps import AppConfig


class DisksConfig(AppConfig):
    name = "disks"
    verbose_name = "Virtual disks"
    default_auto_field = "django.db.models.BigAutoField"
