"""Signing in, and changing one's password."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm

# A hash costs time by length: what no person types is refused before it is hashed.
LONGEST_PASSWORD = 1024


class SignInForm(AuthenticationForm):
    error_messages = {  # noqa: RUF012  Django's forms are declared so
        "invalid_login": "Name and password do not match. Both care about capital letters.",
        "inactive": "This account is switched off.",
    }
    password = forms.CharField(
        label="Password",
        strip=False,
        max_length=LONGEST_PASSWORD,
        widget=forms.PasswordInput(
            attrs={"autocomplete": "current-password", "class": "form-control"}
        ),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["username"].label = "User name"
        self.fields["username"].widget.attrs["class"] = "form-control"


class PasswordForm(PasswordChangeForm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            field.widget.attrs["class"] = "form-control"
            if isinstance(field, forms.CharField):
                field.max_length = LONGEST_PASSWORD
                field.widget.attrs["maxlength"] = LONGEST_PASSWORD
