"""The few SVG elements that the drawings need, with everything escaped."""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape, quoteattr

from django.utils.safestring import SafeString, mark_safe

from disks.views.drawing.text import visible

Attribute = str | int | float | None


def number(value: float) -> str:
    """Coordinates with at most one decimal."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


def element(name: str, content: str | None = None, /, **attributes: Attribute) -> str:
    """One element. content is markup already; None makes an empty element.

    Attribute names: `class_` for class, `_` stands for `-`. None leaves one out.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None:
            continue
        text = value if isinstance(value, str) else number(value)
        parts.append(f"{_attribute_name(key)}={quoteattr(text)}")
    opening = " ".join(parts)
    return f"<{opening}/>" if content is None else f"<{opening}>{content}</{name}>"


def _attribute_name(key: str) -> str:
    if key == "viewBox":
        return key
    return key.rstrip("_").replace("_", "-")


def text(content: str, x: float, y: float, class_: str, **attributes: Attribute) -> str:
    return element("text", escape(visible(content)), x=x, y=y, class_=class_, **attributes)


def title(content: str, identifier: str | None = None) -> str:
    return element("title", escape(visible(content)), id=identifier)


def link(url: str | None, label: str, content: str) -> str:
    """A link around content; without an address just a group."""
    if url is None:
        return element("g", title(label) + content)
    return element(
        "a", title(label) + content, href=url, aria_label=visible(label), class_="vd-svg-link"
    )


def document(
    parts: Iterable[str],
    *,
    width: float,
    height: float,
    identifier: str,
    heading: str,
    description: str,
    class_: str,
    role: str = "group",
) -> SafeString:
    """The svg element. role `group` keeps links inside reachable; `img` for pictures without."""
    named = title(heading, f"{identifier}-title")
    described = element("desc", escape(visible(description)), id=f"{identifier}-desc")
    markup = element(
        "svg",
        named + described + "".join(parts),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {number(width)} {number(height)}",
        width=width,
        height=height,
        role=role,
        aria_labelledby=f"{identifier}-title",
        aria_describedby=f"{identifier}-desc",
        class_=class_,
    )
    # Every text went through escape() and every attribute through quoteattr() above.
    return mark_safe(markup)  # noqa: S308
