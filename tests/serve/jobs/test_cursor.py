from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import InvalidRequest
from serve.jobs.cursor import Cursors
from serve.jobs.job import Owner, new_job_id
from tests.serve.jobs.store.samples import a_job

OWNER = Owner(tenant="atelier")
CURSORS = Cursors(b"s" * 32)


def test_a_cursor_leads_back_to_its_job():
    job = a_job(new_job_id(), created_at=1_800_000_000.123456)
    cursor = CURSORS.after(job, OWNER)
    assert Cursors(b"s" * 32).read(cursor, OWNER) == (job.created_at, job.id)


def test_it_is_its_owners_and_its_stores_alone():
    cursor = CURSORS.after(a_job("job_1"), OWNER)
    for others, owner in ((Cursors(b"t" * 32), OWNER), (CURSORS, Owner(tenant="b"))):
        with pytest.raises(InvalidRequest) as caught:
            others.read(cursor, owner)
        assert caught.value.param == "cursor"


@given(place=st.integers(0, 200), other=st.sampled_from("AZaz09-_=\xe9 "))
def test_no_changed_cursor_is_taken(place: int, other: str):
    cursor = CURSORS.after(a_job("job_1"), OWNER)
    place %= len(cursor)
    changed = cursor[:place] + other + cursor[place + 1 :]
    try:
        read = CURSORS.read(changed, OWNER)
    except InvalidRequest:
        return
    # Base64 has bits at its end that mean nothing.
    assert read == CURSORS.read(cursor, OWNER)


@given(st.text(max_size=80))
def test_nothing_made_up_is_taken(text: str):
    with pytest.raises(InvalidRequest):
        CURSORS.read(text, OWNER)
