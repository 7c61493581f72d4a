"""How far property tests search; the profiles are in `conftest.py`."""

from __future__ import annotations

from hypothesis import settings

USUAL_EXAMPLES = 100


def examples(fixed: int) -> int:
    """For `max_examples` of a test that costs more, or less, than others.

    `fixed` are those of `make test`; in a random search it is as many times more as for others.
    """
    return fixed * settings().max_examples // USUAL_EXAMPLES
