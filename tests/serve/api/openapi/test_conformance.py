"""schemathesis: requests that the document allows, and such that it does not."""

from __future__ import annotations

import schemathesis
from schemathesis.config import SchemathesisConfig

from serve.http import create_app
from tests.serve.fakes import services

CONFIG = SchemathesisConfig.from_dict(
    {
        "seed": 1,
        "generation": {"max-examples": 30, "deterministic": True, "database": "none"},
        "checks": {"positive_data_acceptance": {"expected-statuses": ["2XX", "304", "400", "404", "416"]}},
    }
)
APP = create_app(services())
schema = schemathesis.openapi.from_asgi("/openapi.json", APP, config=CONFIG)


@schema.parametrize()
def test_nothing_undocumented_is_answered(case: schemathesis.Case):
    case.call_and_validate()
