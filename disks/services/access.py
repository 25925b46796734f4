"""Who may do what: three roles, each a group, each including the one before."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, Group
from django.db.models import Q
from django.db.models.signals import m2m_changed


class Role(IntEnum):
    """What an address asks for; ANYONE and SIGNED_IN are no groups."""

    ANYONE = 0
    SIGNED_IN = 1
    VIEWER = 2
    OPERATOR = 3
    ADMINISTRATOR = 4

    @property
    def group(self) -> str:
        """The name of the role's group."""
        return self.name.lower()


GRANTED = (Role.VIEWER, Role.OPERATOR, Role.ADMINISTRATOR)
_BY_GROUP = {role.group: role for role in GRANTED}


def role_of(user: Any) -> Role:
    """The highest role of a user; asked once per request, then kept on the object."""
    if user is None or isinstance(user, AnonymousUser) or not user.is_active:
        return Role.ANYONE
    known = getattr(user, "_console_role", None)
    if known is None:
        names = [group.name for group in user.groups.all()]
        known = max((_BY_GROUP[name] for name in names if name in _BY_GROUP), default=None)
        if user.is_superuser:
            known = Role.ADMINISTRATOR
        user._console_role = known = known or Role.SIGNED_IN
    return known


def allows(user: Any, role: Role) -> bool:
    return role_of(user) >= role


def grant(user: AbstractBaseUser, role: Role) -> None:
    """Give a user exactly this role."""
    groups = [Group.objects.get_or_create(name=role.group)[0]] if role in GRANTED else []
    others = user.groups.exclude(name__in=_BY_GROUP)  # type: ignore[attr-defined]
    user.groups.set([*others, *groups])  # type: ignore[attr-defined]


def is_last_administrator(user: AbstractBaseUser) -> bool:
    """Nobody else could give out roles any more without this user."""
    if role_of(user) < Role.ADMINISTRATOR:
        return False
    others = get_user_model()._default_manager.filter(is_active=True).exclude(pk=user.pk)
    administrators = Q(is_superuser=True) | Q(groups__name=Role.ADMINISTRATOR.group)
    return not others.filter(administrators).exists()


def connect() -> None:
    """Keep `is_staff`, the door of Django's admin, in step with the administrators' group."""
    m2m_changed.connect(
        _groups_changed, sender=get_user_model().groups.through, dispatch_uid="console-staff"
    )


def _groups_changed(
    sender: Any, instance: Any, action: str, reverse: bool, pk_set: set[int] | None, **_: Any
) -> None:
    if action not in ("post_add", "post_remove", "post_clear", "pre_clear"):
        return
    users = get_user_model()._default_manager
    if not reverse:
        touched = users.filter(pk=instance.pk)
    elif pk_set is not None:
        touched = users.filter(pk__in=pk_set)
    else:  # a group loses all its members: remember them before they are gone
        touched = users.filter(groups=instance)
        if action == "pre_clear":
            instance._cleared_users = list(touched.values_list("pk", flat=True))
            return
        touched = users.filter(pk__in=getattr(instance, "_cleared_users", []))
    for user in touched:
        if hasattr(user, "_console_role"):
            del user._console_role
        is_staff = role_of(user) >= Role.ADMINISTRATOR
        if user.is_staff != is_staff:
            users.filter(pk=user.pk).update(is_staff=is_staff)
    if not reverse:
        instance.__dict__.pop("_console_role", None)
        instance.is_staff = role_of(instance) >= Role.ADMINISTRATOR
