"""Who watches a job's previews, and what is new to them."""

from __future__ import annotations

import asyncio

import pytest

from deployments.graph.listening.events import ImagePreview
from serve.jobs import previews as previews_module
from serve.jobs.previews import Marker, Previews, Shown


class Watched:
    """Previews of a hold, and whether they were wanted, as it was told."""

    def __init__(self, token: str = "hold") -> None:
        self.wanted: list[bool] = []
        self.ended = asyncio.Event()
        self.previews = Previews(token, self._turn)

    def _turn(self, wanted: bool) -> None:
        self.wanted.append(wanted)
        if not wanted:
            self.ended.set()


def preview(image: int, step: int) -> ImagePreview:
    return ImagePreview(
        image=image,
        step=step,
        num_steps=8,
        data=b"",
        media_type="image/jpeg",
        width=8,
        height=8,
    )


def steps_of(shown: Shown) -> list[tuple[int, int]]:
    return sorted((each.image, each.step) for each in shown.previews)


async def test_made_while_somebody_asks_and_no_longer(monkeypatch: pytest.MonkeyPatch):
    watched = Watched()
    assert not watched.previews.are_wanted
    watched.previews.ask(None)
    watched.previews.ask(None)
    assert watched.previews.are_wanted
    assert watched.wanted == [True]
    monkeypatch.setattr(previews_module, "LINGER_S", 0.0)
    watched.previews.ask(None)
    await watched.ended.wait()
    assert not watched.previews.are_wanted
    assert watched.wanted == [True, False]
    watched.previews.ask(None)
    assert watched.wanted == [True, False, True]
    watched.previews.close()


async def test_the_end_of_the_run_ends_the_watch():
    watched = Watched()
    watched.previews.close()
    assert watched.wanted == []
    watched.previews.ask(None)
    watched.previews.close()
    watched.previews.close()
    assert watched.wanted == [True, False]


async def test_the_latest_of_each_image_and_what_was_seen_no_more():
    previews = Watched().previews
    for image, step in ((0, 1), (1, 1), (0, 2)):
        previews.put(preview(image, step))
    shown = previews.ask(None)
    assert steps_of(shown) == [(0, 2), (1, 1)]
    assert steps_of(previews.ask(shown.marker)) == []
    previews.put(preview(1, 3))
    assert steps_of(previews.ask(shown.marker)) == [(1, 3)]
    previews.close()


async def test_what_was_seen_of_another_hold_counts_for_nothing():
    previews = Watched("second").previews
    previews.put(preview(0, 5))
    shown = previews.ask(Marker(token="first", number=40))
    assert steps_of(shown) == [(0, 5)]
    assert shown.marker == Marker(token="second", number=1)
    previews.close()


async def test_news_are_waited_for():
    previews = Watched().previews
    waiting = asyncio.create_task(previews.next(None, timeout_s=60.0))
    await asyncio.sleep(0)
    previews.put(preview(0, 1))
    shown = await waiting
    assert steps_of(shown) == [(0, 1)]
    assert steps_of(await previews.next(shown.marker, timeout_s=0.0)) == []
    previews.close()
