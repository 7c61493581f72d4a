"""The page as HTML, and the policy that it is sent with.

Links and calls are relative to it, so that a prefix before it does not matter. What it shows of
jobs, receipts and errors its scripts ask for; here stand its texts and the model's card.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from serve.csp import hash_source
from serve.icon import data_url
from serve.page.samples import samples_of
from serve.page.script import script
from serve.page.texts import DEFAULT_LANGUAGE, LANGUAGES, texts_in


def page_html(
    model: Mapping[str, object],
    *,
    language: str = DEFAULT_LANGUAGE,
    lists_traces: bool = False,
    texts: Mapping[str, str] | None = None,
) -> str:
    """The page for a model's card (`GET /v1/models/{id}`), in one of `LANGUAGES`, or with `texts`
    in place of the table's."""
    texts = texts_in(language) if texts is None else texts
    data = {
        "texts": texts,
        "locale": LANGUAGES[language],
        "model": model,
        "shapes": samples_of(str(model["name"])).shapes,
    }
    return (
        _environment()
        .get_template("page.html")
        .render(
            t=texts,
            lang=LANGUAGES[language],
            language=language,
            policy=content_security_policy(),
            icon_url=data_url(),
            model=model,
            samples=samples_of(str(model["name"])),
            lists_traces=lists_traces,
            style=Markup(_style()),
            data=Markup(_embedded(data)),
            script=Markup(script()),
        )
    )


@functools.cache
def content_security_policy() -> str:
    """The page's policy; it has it in itself as well."""
    return (
        f"default-src 'none'; style-src {hash_source(_style())};"
        f" script-src {hash_source(script())}; img-src 'self' data: blob:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )


def _embedded(data: object) -> str:
    """JSON that ends no script element, whatever is in it."""
    return json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("serve.page"), autoescape=True, undefined=StrictUndefined
    )


@functools.cache
def _style() -> str:
    environment = _environment()
    assert environment.loader is not None
    text, _, _ = environment.loader.get_source(environment, "page.css")
    return text
