"""What Ray's agent on this node exports for Prometheus, ours among it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import httpx
import ray

logger = logging.getLogger("ray.serve")

_TIMEOUT_S = 10.0


async def node_metrics() -> bytes | None:
    """The text of this process's node; None, with a line in the log, if it cannot be read."""
    try:
        url = await asyncio.to_thread(_url)
        # Nothing of the environment: a proxy for the outside does not lead to this node.
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False) as client:
            answer = (await client.get(url)).raise_for_status()
    except (httpx.HTTPError, LookupError) as error:
        logger.warning("the metrics of this node cannot be read: %r", error)
        return None
    return answer.content


def _url() -> str:
    """Where the agent of this node listens: a port that Ray chose, or its start was told."""
    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = cast(Any, ray).nodes()
    node = {each["NodeID"]: each for each in nodes}[here]
    host = node["NodeManagerAddress"]
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{node['MetricsExportPort']}/metrics"
