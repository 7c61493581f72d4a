from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

from serve.tracing.views.page import content_security_policy, list_page, trace_page
from serve.tracing.views.summary import TraceFilters
from tests.serve.tracing.job_sample import job_sample
from tests.serve.tracing.sample import TraceBuilder, large, sample
from tests.serve.tracing.views.test_summary import SUMMARY

VOID = {"meta", "link", "input", "br"}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


class Checked(HTMLParser):
    """Fails where a tag is closed that is not open; counts tags, and keeps what they refer to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_job_is_the_whole_and_its_submission_a_part():
    html = trace_page(job_sample())
    Checked(html)
    assert "<h2>The job</h2>" in html
    assert "<title>succeeded · 13.0 s" in html
    assert re.search(r"in the queue</dt><dd>1\.50 s", html)
    rows = re.findall(r'aria-level="(\d)" aria-label="([^",]*)', html)
    assert rows[:5] == [
        ("1", "job"),
        ("2", "POST /v1/jobs"),
        ("3", "admit"),
        ("3", "respond"),
        ("2", "queue.wait"),
    ]
    assert 'class="after"' not in html
    assert "its runner was lost" in html


def test_what_was_submitted_says_where_its_job_will_be():
    html = trace_page(job_sample(is_over=False))
    assert "202 submitted" in html
    assert "once it is over" in html


def test_a_row_for_every_span_and_every_link_of_a_tick():
    html = trace_page(sample())
    page = Checked(html)
    assert page.counts["ul"] > 10
    assert html.count('class="facts"') == 75
    assert html.count('role="treeitem" id="s-') == 75


def test_what_others_wrote_is_text():
    built = TraceBuilder()
    facts = {"sluice.tenant": HOSTILE, HOSTILE: HOSTILE, "sluice.outcome": HOSTILE}
    top = built.span(HOSTILE, 0, 9, attributes=facts, error=HOSTILE)
    built.span("denoise.run", 1, 5, top, events=[(HOSTILE, 2, {"sluice.step": HOSTILE})])
    html = trace_page(built.otlp())
    page = Checked(html)
    assert page.counts["script"] == 1
    assert "img" not in page.counts
    assert "&lt;script&gt;" in html
    listed = Checked(list_page([replace(SUMMARY, tenant=HOSTILE, error=HOSTILE)], TraceFilters()))
    assert not {"script", "img"} & listed.counts.keys()


def test_a_prompt_is_not_in_the_head():
    html = trace_page(sample(**{"sluice.prompt": "a very secret wish"}))
    head = html[: html.index('role="tree"')]
    assert "secret" not in head


def test_the_policy_allows_style_and_script_of_the_page_and_nothing_else():
    html = trace_page(sample())
    policy = content_security_policy()
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert html.count("Content-Security-Policy") == 1
    # Neither would be allowed by it.
    page = Checked(html)
    assert "style" not in page.attributes
    assert not any(name.startswith("on") for name in page.attributes)


def test_links_stay_on_this_server():
    for html in (trace_page(sample()), list_page([SUMMARY], TraceFilters(missed=True))):
        links = [link for link in Checked(html).links if not link.startswith(("#", "data:"))]
        assert links
        assert not [link for link in links if "//" in link or ":" in link or link.startswith("/")]


def test_two_thousand_spans_stay_a_page_of_a_few_megabytes():
    html = trace_page(large(2000))
    assert html.count('class="facts"') == 2000
    assert len(html) < 3 * 2**20


def test_the_list_says_what_it_was_asked_for():
    html = list_page([SUMMARY], TraceFilters(missed=True, tenant='a"b'))
    assert re.search(r'name="missed" value="1" checked', html)
    assert not re.search(r'name="slow" value="1" checked', html)
    assert "a&#34;b" in html
    assert f'href="v1/traces/{SUMMARY.trace_id}"' in html


def test_an_empty_list_says_why():
    assert "No request has been traced yet." in list_page([], TraceFilters())
    assert "No request that is kept is like this." in list_page([], TraceFilters(slow=True))


def test_a_deadline_that_was_refused_is_not_said_to_be_missed():
    trace = replace(SUMMARY, status=429, outcome="deadline_unreachable", deadline_met=None)
    html = list_page([trace], TraceFilters())
    assert '<span class="why">refused</span>' in html
    assert ">missed<" not in html


def test_a_deadline_that_was_missed_is_said():
    html = trace_page(sample(**{"sluice.deadline_met": False}))
    assert re.search(r'12\.0 s, <span class="why">missed', html)
