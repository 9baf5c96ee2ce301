import json
import re
from datetime import UTC, datetime, timedelta
from html import unescape
from html.parser import HTMLParser
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]
import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.paginator import Paginator
from django.http import HttpRequest
from django.template import Context, Template
from django.template.loader import render_to_string
from django.test import RequestFactory
from django.utils import timezone

from deploypipe.core.templatetags import ui

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


def render(source: str, **context: Any) -> str:
    return Template("{% load ui %}" + source).render(Context(context))


def request(path: str = "/") -> HttpRequest:
    made = RequestFactory().get(path)
    made.user = AnonymousUser()
    return made


# --- Chips and icons --------------------------------------------------------------------------------------------------


def test_a_chip_says_its_state_in_a_word_beside_the_icon() -> None:
    html = render('{% status "rollout" "waiting_approval" %}')
    assert 'class="chip chip-hold"' in html
    assert "#hand" in html
    assert "Waiting for approval" in html


def test_a_chip_escapes_what_it_does_not_know() -> None:
    assert "<b>" not in render('{% status "rollout" value %}', value="<b>odd")


def test_an_icon_is_hidden_from_readers_unless_it_has_a_label() -> None:
    assert 'aria-hidden="true"' in render('{% icon "check" %}')
    named = render('{% icon "check" label="Chain verified" %}')
    assert 'role="img" aria-label="Chain verified"' in named
    assert "aria-hidden" not in named


def test_filters_give_the_parts_of_a_status() -> None:
    assert render('{{ "failed"|tone:"step" }} {{ "failed"|state_icon:"step" }} {{ "failed"|state_label:"step" }}') == (
        "bad x-circle Failed"
    )


# --- Times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds_ago", "words"),
    [
        (0, "just now"),
        (4, "just now"),
        (59, "59 s ago"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (3600, "1 h ago"),
        (47 * 3600, "47 h ago"),
        (48 * 3600, "2 days ago"),
        (59 * 86400, "59 days ago"),
        (60 * 86400, "3 Jan 2026"),
        (-90, "in 1 min"),
        (-3, "just now"),
    ],
)
def test_relative_words(seconds_ago: int, words: str) -> None:
    assert ui.relative(NOW - timedelta(seconds=seconds_ago), NOW).replace(ui.NBSP, " ") == words


def test_when_carries_the_absolute_time_for_machines_and_on_hover() -> None:
    html = render("{% when moment %}", moment=NOW)
    assert 'datetime="2026-03-04T12:00:00.000Z"' in html
    assert 'title="4 Mar 2026, 12:00:00 UTC"' in html


def test_when_takes_iso_text_a_naive_time_and_nothing() -> None:
    assert "2026-03-04T11:00:00.000Z" in render("{% when moment %}", moment="2026-03-04T12:00:00+01:00")
    assert "2026-03-04T12:00:00.000Z" in render("{% when moment %}", moment=datetime(2026, 3, 4, 12))  # noqa: DTZ001
    assert "–" in render("{% when moment %}", moment=None)
    assert "–" in render("{% when moment %}", moment="yesterday")
    assert "just now" in render("{% when moment %}", moment=timezone.now())


# --- Numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "value", "shown"),
    [
        ("percent", 0.0123, "1.23 %"),
        ("percent", 0.5, "50 %"),
        ("percent", 1, "100 %"),
        ("percent", 0, "0 %"),
        ("percent", 0.00012, "0.012 %"),
        ("percent:1", 0.12345, "12.3 %"),
        ("percent", -0.05, "−5 %"),
        ("weight", 1000, "10 %"),
        ("weight", 10_000, "100 %"),
        ("points", 0.0123, "+1.23 pp"),
        ("points", -0.0123, "−1.23 pp"),
        ("points", 0, "0 pp"),
        ("signed", 4.2, "+4.2"),
        ("signed", -1e-9, "0"),
        ("number", 1234.5, "1,234"),
        ("number", 0.1234, "0.123"),
        ("thousands", 1234567, "1,234,567"),
        ("thousands", -1234, "−1,234"),
        ("ms", 0.84, "0.84 ms"),
        ("ms", 12.34, "12.3 ms"),
        ("ms", 345.6, "346 ms"),
        ("ms", 12_345, "12.3 s"),
        ("duration", 0, "0 s"),
        ("duration", 0.34, "340 ms"),
        ("duration", 4.25, "4.2 s"),
        ("duration", 59.6, "1 min"),
        ("duration", 92, "1 min 32 s"),
        ("duration", 3600, "1 h"),
        ("duration", 7500, "2 h 5 min"),
        ("duration", 90_000, "1 d 1 h"),
        ("duration", -92, "−1 min 32 s"),
        ("duration", timedelta(seconds=92), "1 min 32 s"),
        ("size", 0, "0 B"),
        ("size", 1536, "1.5 KiB"),
        ("size", 5 * 1024**3, "5 GiB"),
    ],
)
def test_humane_numbers(source: str, value: object, shown: str) -> None:
    assert render(f"{{{{ value|{source} }}}}", value=value).replace(ui.NBSP, " ") == shown


@pytest.mark.parametrize(
    "name", ["percent", "weight", "points", "signed", "number", "thousands", "ms", "duration", "size"]
)
@pytest.mark.parametrize("value", [None, "", "soon", float("nan"), float("inf")])
def test_a_number_that_is_missing_is_a_dash(name: str, value: object) -> None:
    assert render(f"{{{{ value|{name} }}}}", value=value) == "–"


def test_a_digest_is_short_and_keeps_the_whole() -> None:
    whole = "sha256:" + "0123456789abcdef" * 4
    html = render("{{ value|digest }}", value=whole)
    assert f'title="{whole}"' in html
    assert ">0123456789ab…<" in html
    assert "–" in render("{{ value|digest }}", value="")
    assert ">abc<" in render("{{ value|digest }}", value="abc")


# --- Bars -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("score", "tone"), [(95, "ok"), (80, "ok"), (79.9, "warn"), (65, "warn"), (64.9, "bad")])
def test_a_score_bar_takes_the_tone_of_its_band(score: float, tone: str) -> None:
    html = render("{% score_bar score %}", score=score)
    assert f"bar-{tone}" in html
    assert f'width="{score}"' in html


def test_a_score_bar_stays_inside_and_says_when_there_is_no_score() -> None:
    assert 'width="100"' in render("{% score_bar 130 %}")
    assert "<rect" not in render("{% score_bar None %}")
    assert "bar-warn" in render('{% score_bar 90 band="caution" %}')


def test_a_split_bar_says_both_shares_and_the_measured_one() -> None:
    html = unescape(render('{% split_bar 1000 980 "v2" "v1" %}')).replace(ui.NBSP, " ")
    for words in ("v2", "10 %", "measured 9.8 %", "v1", "90 %"):
        assert words in html
    assert "measured" not in render("{% split_bar 1000 %}")


# --- Verbs ------------------------------------------------------------------------------------------------------------


def test_a_plain_verb_is_a_post_form_with_the_token() -> None:
    html = render('{% verb_button "/x/pause/" "Pause" seen=7 %}', csrf_token="secret-token")
    assert '<form class="verb" method="post" action="/x/pause/"' in html
    assert 'name="csrfmiddlewaretoken" value="secret-token"' in html
    assert 'name="seen" value="7"' in html
    assert "<details" not in html


def test_a_verb_that_may_not_be_used_says_why_and_has_no_form() -> None:
    html = render('{% verb_button "/x/" "Promote" confirm="All traffic." disabled_reason="You lack the role." %}')
    assert "disabled" in html
    assert "You lack the role." in html
    assert "<form" not in html


def test_a_verb_with_a_consequence_works_without_javascript() -> None:
    consequence = "Send <100 %> back."
    html = render('{% verb_button "/x/" "Abort" tone="bad" confirm=said reason="required" %}', said=consequence)
    assert "<details" in html
    assert "<summary" in html
    assert "Send &lt;100 %&gt; back." in html
    assert re.search(r'<textarea name="reason"[^>]* required>', html)
    assert "<dialog" not in html


def test_an_optional_reason_is_not_required() -> None:
    html = render('{% verb_button "/x/" "Approve" reason="optional" reason_name="note" reason_label="Note" %}')
    assert '<textarea name="note"' in html
    assert " required" not in html
    assert "Note" in html


def test_a_verb_with_a_target_is_sent_by_htmx() -> None:
    html = render('{% verb_button "/x/" "Pause" target="#rollout-1" %}')
    assert 'hx-post="/x/"' in html
    assert 'hx-target="#rollout-1"' in html


# --- Charts -----------------------------------------------------------------------------------------------------------

FIGURE: dict[str, Any] = {
    "data": [
        {"x": ["2026-03-04T12:00:01Z", "2026-03-04T12:00:02Z"], "y": [41.26, None], "name": "v1"},
        {"x": ["2026-03-04T12:00:02Z", "2026-03-04T12:00:03Z"], "y": [36.2, 1234.5], "name": "v2"},
    ],
    "layout": {"xaxis": {"type": "date", "title": {"text": "Time (UTC)"}}},
}


def test_a_chart_carries_its_figure_and_a_table_with_the_same_numbers() -> None:
    html = render('{% chart "r1" figure "Latency" topic="rollout-1" src="/f.json" %}', figure=FIGURE)
    payload = re.search(r'<script id="r1-figure" type="application/json">(.*?)</script>', html)
    assert payload
    kept = json.loads(payload.group(1))
    assert kept == FIGURE
    go.Figure(kept)  # raises on a property that Plotly does not know
    assert 'data-topic="rollout-1"' in html
    assert 'data-live-topic="rollout-1"' in html
    assert 'data-src="/f.json"' in html
    header, rows = ui.chart_table(FIGURE)
    assert header == ["Time (UTC)", "v1", "v2"]
    assert rows == [["12:00:03", "–", "1,234"], ["12:00:02", "–", "36.2"], ["12:00:01", "41.3", "–"]]
    for row in rows:
        for cell in row:
            assert cell in html


def test_a_payload_cannot_close_its_script() -> None:
    figure = {"data": [{"x": [1], "y": [2], "name": "</script><script>alert(1)</script>"}], "layout": {}}
    assert "<script>alert" not in render('{% chart "r1" figure "T" %}', figure=figure)


def test_a_chart_without_points_still_renders() -> None:
    assert ui.chart_table({"data": [], "layout": {}}) == (["Time"], [])
    assert "<table" in render('{% chart "r1" figure "T" %}', figure={"data": [], "layout": {}})


def test_a_table_keeps_the_newest_rows_and_the_order_of_categories() -> None:
    figure = {"data": [{"x": list(range(100)), "y": list(range(100)), "name": "n"}], "layout": {}}
    _, rows = ui.chart_table(figure, limit=3)
    assert [row[0] for row in rows] == ["99", "98", "97"]
    bars = {"data": [{"x": ["b", "a"], "y": [1, 2], "name": "n"}], "layout": {"xaxis": {"title": "Check"}}}
    assert ui.chart_table(bars) == (["Check", "n"], [["a", "2"], ["b", "1"]])


# --- Fragments and pages ----------------------------------------------------------------------------------------------


class _Shape(HTMLParser):
    """What the content security policy forbids, and tags that do not close."""

    VOID = frozenset({"meta", "link", "input", "img", "br", "rect", "path", "use"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.problems: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        if tag == "style" or (tag == "script" and "src" not in names and names.get("type") != "application/json"):
            self.problems.append(f"inline {tag}")
        self.problems += [f"{tag} {name}" for name in names if name == "style" or name.startswith("on")]
        for name in ("src", "href"):
            if (names.get(name) or "").startswith(("http:", "https:", "//")):
                self.problems.append(f"third party: {names[name]}")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> without its start")


def problems(html: str) -> list[str]:
    shape = _Shape()
    shape.feed(html)
    return shape.problems + [f"<{tag}> is not closed" for tag in shape.open]


@pytest.mark.parametrize("name", ["403.html", "403_csrf.html", "404.html", "500.html", "registration/login.html"])
def test_standing_pages_keep_the_policy_and_close_their_tags(name: str) -> None:
    html = render_to_string(
        name, {"DEMO_ACCOUNTS": [{"username": "ana", "password": "pw", "role": "engineer"}]}, request()
    )
    assert problems(html) == []
    assert html.count("<h1") == 1
    assert html.count("<main") == 1


def test_the_error_page_needs_no_request() -> None:
    assert "Something broke" in render_to_string("500.html")


def test_demo_accounts_are_shown_only_when_given() -> None:
    assert "Demo accounts" not in render_to_string("registration/login.html", {}, request())


def test_components_keep_the_policy_and_close_their_tags() -> None:
    html = render(
        '{% chart "c" figure "T" topic="t-1" %}{% verb_button "/x/" "Do" confirm="It is done." reason="required" %}'
        '{% verb_button "/x/" "Do" %}{% verb_button "/x/" "Do" disabled_reason="No." %}'
        '{% score_bar 80 %}{% split_bar 100 %}{% status "step" "active" %}{% when None %}'
        '{% include "_empty.html" with title="Nothing" text="Yet." command="deploypipe register" %}'
        '{% include "_callout.html" with tone="warn" title="Look" text="here" %}',
        figure=FIGURE,
        csrf_token="t",
    )
    assert problems(html) == []


def test_pages_of_a_list_keep_the_filter_in_their_links() -> None:
    page = Paginator(range(95), 10).page(3)
    html = render_to_string("_pagination.html", {"page_obj": page}, request("/audit/?verb=approve&page=3"))
    assert "?verb=approve&amp;page=2" in html
    assert "?verb=approve&amp;page=4" in html
    assert "21 to 30 of 95" in html
    assert render_to_string("_pagination.html", {"page_obj": Paginator(range(5), 10).page(1)}, request()).strip() == ""


def test_a_link_to_a_page_that_does_not_exist_is_left_out() -> None:
    assert "<a" not in render('{% nav_link "no-such-page" "Nowhere" "info" %}')
