from __future__ import annotations

import re
from importlib.resources import files

import pytest

from serve.page import script as script_module
from serve.page.script import script, source

MODULES = {each.name for each in files("serve.page").joinpath("scripts").iterdir()}


def test_every_module_is_in_it_once_and_after_what_it_imports():
    order = re.findall(r"^// --- (\S+)$", script(), re.MULTILINE)
    assert sorted(order) == sorted(MODULES)
    for place, name in enumerate(order):
        imported = re.findall(r'from "\./(\S+)";', source(name))
        assert set(imported) <= set(order[:place])


def test_nothing_is_imported_or_exported_any_more():
    assert re.findall(r"^(?:import|export)\b.*", script(), re.MULTILINE) == []


@pytest.mark.parametrize("name", sorted(MODULES))
def test_what_a_module_imports_is_exported_there(name: str):
    for names, other in re.findall(
        r'^import \{([^}]*)\} from "\./(\S+)";', source(name), re.MULTILINE
    ):
        for each in map(str.strip, names.split(",")):
            exported = rf"^export .*?(?<![\w$]){re.escape(each)}(?![\w$])"
            assert re.search(exported, source(other), re.MULTILINE), (each, other)


def test_no_text_is_written_as_html():
    """Whatever comes from a server or a file is text."""
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function"
    assert re.findall(forbidden, script()) == []


def test_a_circle_is_found(monkeypatch: pytest.MonkeyPatch):
    written = {
        "main.js": 'import { a } from "./a.js";\n',
        "a.js": 'import { b } from "./b.js";\n',
        "b.js": 'import { a } from "./a.js";\n',
    }
    monkeypatch.setattr(script_module, "source", written.__getitem__)
    with pytest.raises(AssertionError, match=r"main\.js > a\.js > b\.js > a\.js"):
        script_module.script.__wrapped__()
