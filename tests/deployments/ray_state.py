"""What Ray knows of actors: on which node each is, and which GPUs it was given."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from ray._private.state import state
from ray.core.generated import gcs_pb2

_pb2 = cast(Any, gcs_pb2)


class Seat(NamedTuple):
    """Where an actor is; `name` is a replica's deployment, or another actor's class."""

    name: str
    node: str
    gpus: dict[str, float]
    """The share that it has of each GPU, by the GPU's index."""
    actor_name: str
    actor_id: str
    pid: int


def seats(app: str) -> list[Seat]:
    """Of the replicas of `app` that live, and of the actors that they have started."""
    table = state._connect_and_get_accessor().get_actor_table(None, "ALIVE")
    found = [_seat(_pb2.ActorTableData.FromString(row), app) for row in table]
    return sorted(seat for seat in found if seat)


def _seat(row: Any, app: str) -> Seat | None:
    prefix = f"SERVE_REPLICA::{app}#"
    if row.name.startswith(prefix):
        name = row.name.removeprefix(prefix).partition("#")[0]
    elif row.class_name == "RankActor":
        name = row.class_name
    else:
        return None
    gpus = {
        str(each.index): each.quantity
        for resource in row.resource_mapping
        # An actor in a placement group has it twice: by group, and by bundle.
        if resource.name == "GPU" or resource.name.startswith("GPU_group_")
        for each in resource.resource_ids
    }
    return Seat(name, row.address.node_id.hex(), gpus, row.name, row.actor_id.hex(), row.pid)
