"""The pictures of a job: kept in the file store as its own, for as long as it is kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from starlette.concurrency import run_in_threadpool

from deployments.storage.store import FileStore
from pipelines.pictures.recipe import PictureRecipe, PictureSource
from serve.api.pictures.heads import read_head
from serve.generation.plan import Plan


async def with_kept_inputs(plan: Plan, store: FileStore, owner: str) -> Plan:
    """`plan` with each of its pictures in a file of `owner`'s that is the job's alone: neither an
    upload nor a file that somebody deletes meanwhile. Raises FileNotStored, StageFailed."""
    if not plan.recipes:
        return plan
    return await run_in_threadpool(_kept, plan, store, owner)


async def delete_inputs(plan: Plan, store: FileStore) -> None:
    """Of a job that was not stored. Raises StageFailed."""
    for file_id in sorted(_ids(plan.recipes)):
        await run_in_threadpool(store.delete, file_id)


def _ids(recipes: Iterable[PictureRecipe]) -> set[str]:
    sources = [source for each in recipes for source in (each.source, each.mask)]
    return {source.file_id for source in sources if source is not None and source.file_id}


def _kept(plan: Plan, store: FileStore, owner: str) -> Plan:
    kept: dict[str, str] = {}

    def keep(source: PictureSource | None) -> PictureSource | None:
        if source is None:
            return None
        if source.sha256 not in kept:
            data = source.data
            if data is None:
                assert source.file_id is not None
                data = store.get(source.file_id).data
            kept[source.sha256] = store.put(data, read_head(data).media_type, owner)
        return replace(source, data=None, file_id=kept[source.sha256])

    try:
        recipes = tuple(
            replace(each, source=keep(each.source), mask=keep(each.mask)) for each in plan.recipes
        )
    except Exception:  # re-raised: what is kept by then would be nobody's
        for file_id in kept.values():
            store.delete(file_id)
        raise
    return replace(plan, recipes=recipes)
