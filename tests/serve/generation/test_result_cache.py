from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve.generation.result_cache import ResultCache


def cache_of(max_bytes: int = 10, ttl_s: float = 100.0) -> ResultCache[str, str]:
    return ResultCache(max_bytes, ttl_s)


def test_what_was_put_is_found_until_its_time_is_over():
    cache = cache_of()
    cache.put("a", "A", num_bytes=4, since=50.0)
    assert cache.get("a", now=149.9) == "A"
    assert cache.get("b", now=60.0) is None
    assert cache.get("a", now=150.0) is None
    assert cache.num_bytes == 0


def test_what_was_used_last_stays():
    cache = cache_of()
    cache.put("a", "A", num_bytes=4, since=0.0)
    cache.put("b", "B", num_bytes=4, since=0.0)
    assert cache.get("a", now=1.0) == "A"
    cache.put("c", "C", num_bytes=4, since=1.0)
    assert [cache.get(key, now=2.0) for key in "abc"] == ["A", None, "C"]


def test_one_that_is_larger_than_all_is_not_kept():
    cache = cache_of()
    cache.put("a", "A", num_bytes=4, since=0.0)
    cache.put("b", "B", num_bytes=11, since=0.0)
    assert [cache.get(key, now=1.0) for key in "ab"] == ["A", None]


def test_without_room_nothing_is_kept():
    cache = cache_of(max_bytes=0)
    cache.put("a", "A", num_bytes=1, since=0.0)
    assert cache.get("a", now=0.0) is None


def test_a_newer_answer_replaces_the_older():
    cache = cache_of()
    cache.put("a", "old", num_bytes=8, since=0.0)
    cache.put("a", "new", num_bytes=5, since=90.0)
    assert cache.get("a", now=150.0) == "new"
    assert cache.num_bytes == 5
    cache.drop("a")
    assert cache.num_bytes == 0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 12)), max_size=40))
def test_the_bytes_are_those_of_what_is_kept(puts: list[tuple[str, int]]):
    cache: ResultCache[str, int] = ResultCache(10, 1.0)
    for key, size in puts:
        cache.put(key, size, num_bytes=size, since=0.0)
        assert cache.num_bytes <= 10
        assert cache.get(key, now=0.0) == (size if size <= 10 else None)
    kept = [cache.get(key, now=0.0) for key in "abcdef"]
    assert sum(size for size in kept if size is not None) == cache.num_bytes
