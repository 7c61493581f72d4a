from __future__ import annotations

from deployments.stages.byte_cache import ByteCache


def kept(cache: ByteCache[str, str], keys: str) -> str:
    return "".join(key for key in keys if cache.get(key))


def test_who_was_asked_for_longest_ago_leaves_first() -> None:
    cache: ByteCache[str, str] = ByteCache(30)
    for key in "abc":
        cache.put(key, key.upper(), 10)
    assert cache.get("a") == "A"
    cache.put("d", "D", 10)
    assert kept(cache, "abcd") == "acd"


def test_it_goes_by_bytes_and_not_by_number() -> None:
    cache: ByteCache[str, str] = ByteCache(30)
    for key in "abc":
        cache.put(key, key, 5)
    cache.put("d", "D", 25)
    assert kept(cache, "abcd") == "cd"


def test_what_is_over_the_bound_alone_disturbs_no_other() -> None:
    cache: ByteCache[str, str] = ByteCache(30)
    cache.put("a", "A", 10)
    cache.put("b", "B", 31)
    assert kept(cache, "ab") == "a"


def test_what_is_kept_again_is_counted_once() -> None:
    cache: ByteCache[str, str] = ByteCache(30)
    for _ in range(5):
        cache.put("a", "A", 15)
    cache.put("b", "B", 15)
    assert kept(cache, "ab") == "ab"


def test_a_bound_of_nothing_keeps_nothing_and_a_lower_one_less() -> None:
    none: ByteCache[str, str] = ByteCache(0)
    none.put("a", "A", 1)
    assert kept(none, "a") == ""
    cache: ByteCache[str, str] = ByteCache(30)
    for key in "abc":
        cache.put(key, key, 10)
    cache.resize(15)
    assert kept(cache, "abc") == "c"
