from __future__ import annotations

from serve.generation.plan import RequestedTerms


def test_a_deadline_counts_from_the_arrival():
    terms = RequestedTerms(deadline_ms=1500, refuses_late=True, priority=3).terms(
        tenant="t", arrived=100.0
    )
    assert (terms.tenant, terms.deadline, terms.priority) == ("t", 101.5, 3)
    assert terms.refuses_late
    none = RequestedTerms(deadline_ms=None, refuses_late=False, priority=0).terms(
        tenant="", arrived=100.0
    )
    assert none.deadline is None
