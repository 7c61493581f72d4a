"""What vendors call a model, and what is served."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines import catalog
from pipelines.errors import InvalidRequest, ModelNotFound
from serve.api.vendors.vendor_models import VENDOR_NAMES, served_model, with_model
from tests.serve.fakes import SPEC, services


def test_every_row_is_in_the_catalogue():
    assert all(catalog.find(name).name == name for name in VENDOR_NAMES)


@pytest.mark.parametrize(
    ("name", "vendor_name"),
    [(name, vendor_name) for name, given in VENDOR_NAMES.items() for vendor_name in given],
)
def test_vendors_names(name: str, vendor_name: str):
    given = services(spec=replace(SPEC, name=name), served_model_name="ours")
    assert served_model(given, vendor_name) == "ours"
    other = services(spec=replace(SPEC, name="another"))
    with pytest.raises(ModelNotFound, match="is not served here"):
        served_model(other, vendor_name)


def test_names_of_this_server_with_or_without_an_owner():
    given = services(served_model_name="flux/dev")
    for name in ("flux/dev", "anyone/flux/dev"):
        assert served_model(given, name) == "flux/dev"
    for name in ("test-model", "anyone/test-model"):
        assert served_model(given, name) == "test-model"
    for name in ("", "/", "anyone/", "flux", "a/b/test-model", "anyone/TEST-MODEL"):
        with pytest.raises(ModelNotFound):
            served_model(given, name)


def test_fields_may_name_the_same_model():
    for fields in ({}, {"model": None}, {"model": "a/test-model"}, {"model": "test-model"}):
        assert with_model(fields, "a/test-model", "test-model") == {"model": "test-model"}
    with pytest.raises(InvalidRequest, match="contradicts the URL"):
        with_model({"model": "other"}, "a/test-model", "test-model")
