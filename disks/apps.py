from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps


class DisksConfig(AppConfig):
    default = True
    name = "disks"
    verbose_name = "Virtual disks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from disks.services import access

        access.connect()


class ConsoleAdminConfig(admin_apps.AdminConfig):
    """Django's admin, for users and roles only, behind the console's own sign-in."""

    default = False  # "disks" in INSTALLED_APPS means the other one
    default_site = "disks.views.admin_site.ConsoleAdminSite"
