from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser

import pytest

from serve.csp import hash_source
from serve.page.page import content_security_policy, page_html
from serve.page.texts import LANGUAGES
from tests.serve.page.fake_api import CARD

HOSTILE = "</script><script>alert(1)</script>"
SAID = ("aria-label", "title", "placeholder", "alt")
NAMES = {"Sluice", "Ctrl", "↵", "–", "×", "sluice-shapes"}
"""What needs no translation."""


class Elements(HTMLParser):
    """Ids, what refers to them, and whatever a person can read."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: set[str] = set()
        self.links: list[str] = []
        self.said: list[str] = []
        self.tags: list[str] = ["document"]
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = {name: value or "" for name, value in attrs}
        assert "style" not in named
        assert not any(name.startswith("on") for name in named)
        self.ids += [named["id"]] if "id" in named else []
        for name in ("aria-describedby", "aria-labelledby", "for"):
            self.references |= set(named.get(name, "").split())
        self.links += [named[name] for name in ("href", "src") if name in named]
        self.said += [named[name] for name in SAID if name in named]

    def handle_data(self, data: str) -> None:
        if self.tags[-1] not in ("script", "style") and data.strip():
            self.said.append(data.strip())


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_refers_to_an_element_finds_one(language: str):
    page = Elements(page_html(CARD, language=language, lists_traces=True))
    assert len(page.ids) == len(set(page.ids))
    assert page.references <= set(page.ids)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_no_text_is_outside_of_the_table():
    class Marked(dict[str, str]):
        def __missing__(self, key: str) -> str:
            return f"⟦{key}⟧"

    html = page_html(CARD, lists_traces=True, texts=Marked())
    outside = [
        text for text in Elements(html).said if text and "⟦" not in text and text not in NAMES
    ]
    samples = re.findall(r'class="sample" lang="en">(.*?)<', html)
    shapes = [text for text in outside if re.fullmatch(r"\d+ × \d+", text)]
    assert sorted(outside) == sorted([*samples, *shapes])


def test_it_links_to_nothing_elsewhere():
    links = Elements(page_html(CARD, lists_traces=True)).links
    kinds = {link for link in links if not link.startswith(("#", "data:image/svg+xml"))}
    assert kinds == {"traces", "docs", "?lang=zh"}
    assert "traces" not in Elements(page_html(CARD)).links


def test_the_policy_allows_the_style_and_the_script_by_their_hashes_alone():
    html = page_html(CARD)
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.S)
    (script,) = re.findall(r'<script type="module">(.*?)</script>', html, re.S)
    policy = _directives(content_security_policy())
    assert policy["style-src"] == [hash_source(style)]
    assert policy["script-src"] == [hash_source(script)]
    assert policy["default-src"] == ["'none'"]
    assert policy["connect-src"] == ["'self'"]
    assert "unsafe" not in content_security_policy()
    assert content_security_policy().replace("'", "&#39;") in html


def test_nothing_that_an_operator_named_ends_the_script():
    html = page_html({**CARD, "id": HOSTILE})
    assert html.count("<script") == 2
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert json.loads(data)["model"]["id"] == HOSTILE


def test_the_language_is_named():
    assert '<html lang="zh-Hans">' in page_html(CARD, language="zh")
    assert '<html lang="en">' in page_html(CARD)


def _directives(policy: str) -> Mapping[str, list[str]]:
    return {name: sources for name, *sources in map(str.split, policy.split(";"))}
