"""The chain as a picture: everything is there, nothing escapes its element."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from disks.views.drawing.chain import (
    NARROW_PX,
    WIDE_PX,
    Branch,
    ChainDisk,
    ChainFold,
    ChainGap,
    describe,
    draw_chain,
)
from disks.views.drawing.text import fitted, visible, width_px

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = [
    "<img src=x onerror=alert(1)>.vhd",
    '"><script>alert(1)</script>',
    "a\u202edhv.exe",
    "a\nb",
]


def a_disk(name: str = "base.vhd", **more: object) -> ChainDisk:
    values: dict[str, object] = {
        "url": "/disks/1/",
        "facts": "base · dynamic",
        "size": "1 MB of 4 MB",
        "allocated_bytes": 1 << 20,
        "virtual_bytes": 4 << 20,
    }
    return ChainDisk(name=name, **(values | more))  # type: ignore[arg-type]


def parse(markup: str) -> ET.Element:
    return ET.fromstring(markup)


def test_every_disk_is_a_link_and_base_comes_first() -> None:
    tree = parse(draw_chain([a_disk(), a_disk("leaf.vhd", url="/disks/2/", current=True)]))
    links = tree.findall(f"{SVG}a")
    assert [link.get("href") for link in links] == ["/disks/1/", "/disks/2/"]
    assert links[1].get("aria-label") == "leaf.vhd: base · dynamic, 1 MB of 4 MB"


def test_the_drawing_is_named_and_described_for_screen_readers() -> None:
    tree = parse(draw_chain([a_disk()], identifier="wide"))
    assert tree.get("aria-labelledby") == "wide-title"
    title = tree.find(f"{SVG}title")
    assert title is not None
    assert (title.get("id"), title.text) == ("wide-title", "The chain, from base to leaf")
    desc = tree.find(f"{SVG}desc")
    assert desc is not None
    assert desc.text == "base.vhd: base · dynamic, 1 MB of 4 MB."


def test_a_broken_link_is_a_gap_with_its_reason() -> None:
    gap = ChainGap(name="C:\\VMs\\base.vhd", reason="It is not there.")
    markup = draw_chain([gap, a_disk("leaf.vhd")])
    texts = [node.text for node in parse(markup).iter(f"{SVG}text")]
    assert "C:\\VMs\\base.vhd" in texts
    assert "It is not there." in texts
    assert "vd-chain-rail-broken" in markup
    assert describe([gap]) == "a gap: C:\\VMs\\base.vhd, It is not there."


def test_siblings_are_branches_and_the_rest_is_counted() -> None:
    leaf = a_disk(
        "leaf.vhd",
        siblings=(Branch("other.vhd", "/disks/9/"),),
        siblings_more=1234,
        siblings_url="/disks/1/?tab=children",
    )
    tree = parse(draw_chain([a_disk(), leaf]))
    labels = [link.get("aria-label") for link in tree.findall(f"{SVG}a")]
    assert "Beside it: other.vhd" in labels
    assert "Beside it: and 1,234 more" in labels


def test_bars_share_one_scale_and_never_leave_their_outline() -> None:
    big = a_disk(virtual_bytes=8 << 20, allocated_bytes=9 << 20)
    half = a_disk("leaf.vhd", virtual_bytes=4 << 20, allocated_bytes=1 << 20)
    tree = parse(draw_chain([big, half]))
    outlines = [float(r.get("width", 0)) for r in tree.iter() if r.get("class") == "vd-bar-outline"]
    fillings = [float(r.get("width", 0)) for r in tree.iter() if r.get("class") == "vd-bar-filled"]
    assert outlines[0] == pytest.approx(2 * outlines[1], abs=0.2)
    assert fillings[0] == outlines[0]
    assert fillings[1] == pytest.approx(outlines[1] / 4, abs=0.2)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("width", [WIDE_PX, NARROW_PX])
def test_hostile_names_stay_text(name: str, width: int) -> None:
    """bad-input 104: markup, overrides and newlines in names are drawn, not obeyed."""
    tree = parse(draw_chain([ChainGap(name, name), a_disk(name, facts=name)], width=width))
    tags = {node.tag.removeprefix(SVG) for node in tree.iter()}
    assert tags <= {"svg", "title", "desc", "a", "g", "rect", "line", "path", "circle", "text"}
    everything = "".join(tree.itertext())
    assert "\u202e" not in everything
    assert "\n" not in everything


def test_no_inline_style_and_no_script() -> None:
    markup = draw_chain([ChainGap("x", "y"), ChainFold(7), a_disk(mark="bad"), a_disk(mark="note")])
    assert "style=" not in markup
    assert "<script" not in markup


def test_names_that_are_not_utf8_can_be_sent() -> None:
    """bad-input D65: bytes that are no UTF-8 are shown as escapes."""
    name = b"caf\xe9.vhd".decode("utf-8", "surrogateescape")
    assert visible(name) == "caf\\xe9.vhd"
    draw_chain([a_disk(name)]).encode()


def test_long_names_are_shortened_in_the_middle() -> None:
    name = "windows-server-2019-golden-image-" + "x" * 200 + "-checkpoint-2.avhd"
    short = fitted(name, 300, 15)
    assert short.startswith("windows-server")
    assert short.endswith("kpoint-2.avhd")
    assert width_px(short, 15) <= 300
    assert fitted("short.vhd", 300, 15) == "short.vhd"


@pytest.mark.parametrize("width", [WIDE_PX, NARROW_PX])
def test_text_stays_inside_the_drawing(width: int) -> None:
    parts = [
        ChainGap("C:\\" + "folder\\" * 60 + "base.vhd", "Nothing answers there. " * 30),
        a_disk("n" * 255, facts="f" * 300, siblings=(Branch("s" * 255, None),)),
    ]
    for node in parse(draw_chain(parts, width=width)).iter(f"{SVG}text"):
        size = 15 if "name" in node.get("class", "") or "lost" in node.get("class", "") else 12.5
        assert float(node.get("x", 0)) + width_px(node.text or "", size) <= width + 1
