"""How sizes, times, names and states are drawn."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.template import Context, Template

from disks.engine.units import size_text
from disks.models import Disk, Job, ParentLink, StorageRoot
from disks.templatetags import amounts, console, names, states


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1024, "1 KB"),
        (1536, "1.5 KB"),
        (1024**2 - 1, "1 MB"),
        (2_040_109_466, "1.9 GB"),
        (127 * 1024**3, "127 GB"),
        (1024**4, "1 TB"),
        (-1024, "−1 KB"),
        (None, "unknown"),
    ],
)
def test_sizes_for_people(count, words):
    assert size_text(count) == words


def test_size_has_the_exact_bytes_on_hover():
    assert amounts.bytes_(1536) == '<span class="size" title="1,536 bytes">1.5 KB</span>'


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.2, "less than 1 s"),
        (61, "1 min 1 s"),
        (7500, "2 h 5 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_durations(seconds, words):
    assert amounts.duration_text(seconds) == words


@pytest.mark.parametrize(
    ("distance", "words"),
    [
        (timedelta(seconds=3), "just now"),
        (timedelta(seconds=61), "1 minute ago"),
        (timedelta(hours=5), "5 hours ago"),
        (timedelta(days=400), "1 year ago"),
        (-timedelta(hours=2), "in 2 hours"),
    ],
)
def test_relative_times(distance, words):
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert amounts.ago_text(now - distance, now) == words


def test_time_keeps_the_exact_moment():
    shown = amounts.ago(datetime(2020, 10, 11, 11, 37, 55, tzinfo=UTC))
    assert 'datetime="2020-10-11T11:37:55+00:00" title="11 Oct 2020 11:37:55 UTC"' in shown
    assert amounts.ago(None) == '<span class="text-secondary">never</span>'


def test_path_breaks_only_between_its_names():
    assert names.winpath("C:\\VMs\\a-b.vhd") == (
        '<bdi dir="ltr" class="path"><span class="part">C:\\</span><wbr>'
        '<span class="part">VMs\\</span><wbr><span class="part">a-b.vhd</span></bdi>'
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", "\\u202e"),
        ("a\x07b", "\\u0007"),
        ("a\u200bb", "\\u200b"),
        ("a\udce9b", "\\xe9"),
        ("a\ud800b", "\\ud800"),
        ("a\nb", "\\u000a"),
        ("a\U000e0041b", "\\U000e0041"),
    ],
)
def test_hidden_characters_are_made_visible(text, shown):
    """bad-input C49, B34, D65 on pages."""
    drawn = names.name(text)
    assert f'<span class="odd" title="hidden character">{shown}</span>' in drawn
    assert names.plain_text(text) == f"a{shown}b"
    drawn.encode()


def test_a_path_and_an_identity_in_a_sentence_are_not_broken_at_a_hyphen() -> None:
    identity = "67291d3a-7eac-4bac-a581-18d06a0c591f"
    drawn = names.name(f"It names C:\\VMs\\a-b.vhd, not well-known {identity}.")
    assert drawn == (
        '<bdi dir="ltr" class="path">It names <span class="part">C:\\</span><wbr>'
        '<span class="part">VMs\\</span><wbr><span class="part">a-b.vhd,</span> not well-known '
        f'<span class="part">{identity}</span>.</bdi>'
    )
    assert names.name("a-b.vhd") == '<bdi dir="ltr" class="path">a-b.vhd</bdi>'


def test_names_are_escaped():
    """bad-input G104."""
    for drawn in (names.name("<b>&\"'"), names.winpath("<b>&\"'"), console.copy('"><b>')):
        assert "<b>" not in drawn
    page = Template("{{ text|visible }}").render(Context({"text": "<b>"}))
    assert page == "&lt;b&gt;"


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("health", Disk.Health.values),
        ("job", Job.Status.values),
        ("root", StorageRoot.State.values),
        ("link", ParentLink.Status.values),
        ("level", ["error", "warning", "note"]),
        (
            "verdict",
            [
                "match",
                "not-found",
                "identity-mismatch",
                "outside-roots",
                "unmapped",
                "unreadable",
                "invalid",
            ],
        ),
    ],
)
def test_every_state_has_icon_word_and_colour(kind, values):
    for value in values:
        drawn = states.badge(kind, value)
        assert "<svg" in drawn
        assert "help-circle" not in drawn or value in ("ambiguous", "unmapped")


def test_unknown_state_is_shown_in_its_own_words():
    assert "Something new" in states.badge("health", "something-new")


def test_percent_is_100_only_at_the_end():
    assert (amounts.percent_of(999, 1000), amounts.percent_of(1000, 1000)) == (99, 100)
    assert amounts.percent_of(1, 0) == 0


def test_icon_with_a_label_is_a_picture_without_one_decoration():
    assert 'aria-hidden="true"' in states.icon("lock")
    assert 'role="img" aria-label="Locked"' in states.icon("lock", "Locked")


@pytest.mark.parametrize(
    ("count", "words"),
    [(15, "15 minutes"), (60, "hour"), (360, "6 hours"), (1440, "day"), (2880, "2 days")],
)
def test_schedules(count, words):
    assert amounts.minutes(count) == words


def test_sort_header_turns_around_and_forgets_the_page(rf):
    context = Context({"request": rf.get("/jobs?q=a&page=3&sort=name"), "sort": "name"})
    row = console.sort_header(context, "name", "Name")
    assert (row["direction"], row["address"]) == ("ascending", "?q=a&sort=-name")
    other = console.sort_header(context, "size", "Size")
    assert (other["direction"], other["address"]) == ("", "?q=a&sort=size")


def test_what_a_job_put_away_is_not_missed() -> None:
    gone = Disk(health="missing", health_code="E_NOT_FOUND")
    put_away = Disk(health="missing", health_code="N_PUT_AWAY")
    assert "Missing" in states.health(gone)
    assert "state-red" in states.health(gone)
    assert "Put away" in states.health(put_away)
    assert "state-red" not in states.health(put_away)
