from __future__ import annotations

import json
import re
from importlib.resources import files

import pytest

from serve.page.script import script
from serve.page.texts import LANGUAGES, preferred_language, table, texts_in

TEMPLATE = files("serve.page").joinpath("templates", "page.html").read_text("utf-8")
PLURAL = re.compile(r"_(one|other)$")
"""The end of a text that counts, by `Intl.PluralRules`."""


def test_every_text_is_there_in_every_language():
    assert {frozenset(says) for says in table().values()} == {frozenset(LANGUAGES)}
    assert [key for key, says in table().items() if not all(says.values())] == []


def test_no_key_stands_twice():
    written = files("serve.page").joinpath("texts.json").read_text("utf-8")
    pairs = json.loads(written, object_pairs_hook=list)
    keys = [key for key, _ in pairs]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("key", table())
def test_all_languages_fill_in_the_same(key: str):
    filled = {frozenset(re.findall(r"\{(\w+)\}", text)) for text in table()[key].values()}
    assert len(filled) == 1


def test_each_text_is_used_and_each_that_is_used_is_there():
    named = {*re.findall(r"\bt\.(\w+)", TEMPLATE), *re.findall(r'\bt\("(\w+)"', script())}
    named |= set(re.findall(r'textOr\([^,]+, "(\w+)"', script()))
    for either in re.findall(r'\bt\([^()]*\? "(\w+)" : "(\w+)"\)', script()):
        named |= set(either)
    begun = re.findall(r'\(`(\w+_)\$\{|t\["(\w+_)" ~', TEMPLATE + script())
    beginnings = tuple(one or other for one, other in begun)
    keys = {PLURAL.sub("", key) for key in table()}
    assert named - keys == set()
    assert {key for key in keys - named if not key.startswith(beginnings)} == set()


@pytest.mark.parametrize(
    ("accepts", "language"),
    [
        ("", "en"),
        ("zh", "zh"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB,en;q=0.9,zh;q=0.8", "en"),
        ("de-DE,de;q=0.9,zh-TW;q=0.5,en;q=0.4", "zh"),
        ("ZH-hans", "zh"),
        ("zh;q=0", "en"),
        ("zh;q=many", "en"),
        ("zh;level=1", "zh"),
        ("fr, *", "en"),
        (";;,=,zhuang", "en"),
    ],
)
def test_the_browser_decides(accepts: str, language: str):
    assert preferred_language(accepts) == language


def test_a_language_is_one_text_for_each_key():
    assert texts_in("zh")["draw"] == "绘制"
    assert texts_in("en").keys() == texts_in("zh").keys()
