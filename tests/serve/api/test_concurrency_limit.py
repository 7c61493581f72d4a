from __future__ import annotations

import pytest

from pipelines.errors import Overloaded
from serve.api.concurrency_limit import ConcurrencyLimit

WHAT = "files are read"


def test_so_many_at_once():
    limit = ConcurrencyLimit()
    with limit.one_of(2, WHAT), limit.one_of(2, WHAT):
        with (
            pytest.raises(Overloaded, match="2 files are read at once") as refused,
            limit.one_of(2, WHAT),
        ):
            raise AssertionError
        assert refused.value.retry_after_s == 1.0


def test_a_place_is_given_back_after_an_error():
    limit = ConcurrencyLimit()
    with pytest.raises(ValueError, match="in between"), limit.one_of(1, WHAT):
        raise ValueError("in between")
    with limit.one_of(1, WHAT):
        pass
