"""The page's scripts, which are ES modules, as the one module that stands in the page.

One script needs one hash and no request. The modules share a scope there, so that no two of them
may give a name on their top level to different things; the page's tests would fail if they did.
"""

from __future__ import annotations

import functools
import re
from importlib.resources import files

ENTRY = "main.js"

_IMPORT = re.compile(r'^import (?:\{[^}]*\} from )?"\./([\w-]+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const|let)\b)", re.MULTILINE)


@functools.cache
def script() -> str:
    """`main.js` and all that it imports, each after what it imports itself."""
    order: list[str] = []
    _add(ENTRY, order, ())
    joined = [_EXPORT.sub("", _IMPORT.sub("", source(name))).strip() for name in order]
    return "\n\n".join(f"// --- {name}\n{text}" for name, text in zip(order, joined, strict=True))


@functools.cache
def source(name: str) -> str:
    """A module as it is written."""
    return files("serve.page").joinpath("scripts", name).read_text("utf-8")


def _add(name: str, order: list[str], below: tuple[str, ...]) -> None:
    assert name not in below, f"modules import each other: {' > '.join((*below, name))}"
    for imported in _IMPORT.findall(source(name)):
        if imported not in order:
            _add(imported, order, (*below, name))
    if name not in order:
        order.append(name)
