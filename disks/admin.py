"""Users and their roles in Django's admin; its site is in `views/admin_site.py`."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.auth import get_user_model
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.forms import AdminUserCreationForm, UserChangeForm
from django.contrib.auth.models import Group
from django.http import HttpRequest

from disks.services import access, audit
from disks.services.access import Role, allows, role_of
from disks.views.guard import client_address


class RoleField(forms.ModelChoiceField):
    """The one group that is a user's role."""

    def label_from_instance(self, obj: Any) -> str:
        return ROLE_WORDS.get(obj.name, obj.name)


ROLE_WORDS = {
    Role.VIEWER.group: "Viewer: sees everything, changes nothing",
    Role.OPERATOR.group: "Operator: also repairs, merges, compacts, scans",
    Role.ADMINISTRATOR.group: "Administrator: also storage roots, trash, users",
}


class _WithRole(forms.ModelForm):
    role = RoleField(
        queryset=Group.objects.filter(name__in=ROLE_WORDS).order_by("pk"),
        required=False,
        empty_label="No role: may only sign in",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.fields["role"].initial = self.instance.groups.filter(name__in=ROLE_WORDS).first()

    def clean(self) -> dict[str, Any]:
        """The last administrator cannot lock everybody out, themselves included."""
        values = super().clean() or {}
        user = self.instance
        group = values.get("role")
        stays = values.get("is_active", user.is_active) and (
            user.is_superuser or (group is not None and group.name == Role.ADMINISTRATOR.group)
        )
        if user.pk and not stays and access.is_last_administrator(user):
            raise forms.ValidationError(
                "This is the last administrator. Give somebody else the role first."
            )
        return values


class UserForm(_WithRole, UserChangeForm):
    """Name, role, active or not; no flag and no permission apart from the role."""


class NewUserForm(_WithRole, AdminUserCreationForm):
    """A new user has its role from the start."""


class ConsoleUserAdmin(UserAdmin):
    form = UserForm
    add_form = NewUserForm
    list_display = ("username", "role_name", "is_active", "last_login")
    list_filter = ("groups", "is_active")
    search_fields = ("username", "email")
    filter_horizontal = ()
    readonly_fields = ("last_login", "date_joined")
    fieldsets = (
        (None, {"fields": ("username", "password", "role", "is_active")}),
        ("Person", {"fields": ("first_name", "last_name", "email")}),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )
    add_fieldsets = (
        (None, {"fields": ("username", "usable_password", "password1", "password2", "role")}),
    )

    @admin.display(description="Role")
    def role_name(self, user: Any) -> str:
        role = role_of(user)
        return role.group if role in access.GRANTED else "none"

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).prefetch_related("groups")

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """The role is set after the user is stored, and the change is audited."""
        super().save_related(request, form, formsets, change)
        user = form.instance
        before = role_of(get_user_model()._default_manager.get(pk=user.pk)) if change else None
        group = form.cleaned_data.get("role")
        role = next((each for each in access.GRANTED if group and each.group == group.name), None)
        access.grant(user, role or Role.SIGNED_IN)
        audit.record(
            user=request.user,
            action="user-change" if change else "user-add",
            sentence=f"{'Changed' if change else 'Added'} the user {user.get_username()}.",
            before={"role": before.group} if before is not None else None,
            after={"role": role.group if role else "none", "active": user.is_active},
            address=client_address(request),
        )

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> Any:
        response = super().user_change_password(request, id, form_url)
        if request.method == "POST" and response.status_code == 302:
            user = self.get_object(request, unquote(id))
            audit.record(
                user=request.user,
                action="user-password",
                sentence=f"Set a new password for {user}.",
                address=client_address(request),
            )
        return response

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        audit.record(
            user=request.user,
            action="user-delete",
            sentence=f"Deleted the user {obj.get_username()}.",
            before={"role": role_of(obj).group},
            address=client_address(request),
        )
        super().delete_model(request, obj)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """No deletion of many at once: it would pass by the rule about the last one."""
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    # Who gets here is an administrator: the site's guard has asked. Permissions in the database
    # play no part in this console.
    def has_module_permission(self, request: HttpRequest) -> bool:
        return allows(request.user, Role.ADMINISTRATOR)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return allows(request.user, Role.ADMINISTRATOR)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return allows(request.user, Role.ADMINISTRATOR)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return allows(request.user, Role.ADMINISTRATOR)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if obj is not None and access.is_last_administrator(obj):
            return False
        return allows(request.user, Role.ADMINISTRATOR)


# What other applications register belongs to nobody's work here; this application is the last.
for _model in list(admin.site._registry):
    admin.site.unregister(_model)
admin.site.register(get_user_model(), ConsoleUserAdmin)
