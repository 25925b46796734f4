"""Rewriting a VHD's parent link: where new strings may go, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from disks.engine.images import HeaderRewrite, NewParent

if TYPE_CHECKING:
    from disks.engine.vhd.image import VhdImage


def plan_parent_link(image: VhdImage, parent: NewParent) -> HeaderRewrite:
    raise NotImplementedError


def recorded_link(image: VhdImage) -> dict[str, Any]:
    raise NotImplementedError


def plan_recorded_link(image: VhdImage, recorded: dict[str, Any]) -> HeaderRewrite:
    raise NotImplementedError
