"""Webhooks to be sent, as rows. Every function is a part of its caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from sqlite3 import Connection
from typing import Any

from serve.jobs.job import Owner
from serve.jobs.store.delivery_store import (
    Attempted,
    Delivery,
    DeliveryStatus,
    DueDelivery,
)
from serve.jobs.store.job_json import job_from_json

COLUMNS = (
    "id",
    "job_id",
    "tenant",
    "url",
    "created_at",
    "next_at",
    "status",
    "attempts",
    "last_error",
    "last_status",
)
SELECT = f"SELECT {', '.join(COLUMNS)} FROM deliveries"


def add(db: Connection, delivery: Delivery) -> None:
    db.execute(
        f"INSERT INTO deliveries ({', '.join(COLUMNS)}) VALUES (:{', :'.join(COLUMNS)})",
        asdict(delivery),
    )


def claim(db: Connection, at: float, lease_s: float) -> DueDelivery | None:
    row = db.execute(
        "SELECT d.id, coalesce(d.job, j.document) FROM deliveries d LEFT JOIN jobs j"
        " ON j.id = d.job_id WHERE d.status = 'waiting' AND d.next_at <= ?"
        " ORDER BY d.next_at, d.id LIMIT 1",
        (at,),
    ).fetchone()
    if row is None:
        return None
    delivery_id, document = row
    db.execute("UPDATE deliveries SET next_at = ? WHERE id = ?", (at + lease_s, delivery_id))
    found = db.execute(f"{SELECT} WHERE id = ?", (delivery_id,)).fetchone()
    return DueDelivery(delivery=_delivery(found), job=job_from_json(document))


def outlive(db: Connection, job_id: str) -> None:
    """The job goes: what waits keeps all that is to be said of it, the rest goes along."""
    db.execute(
        """UPDATE deliveries SET job = (SELECT document FROM jobs WHERE id = job_id)
           WHERE job_id = ? AND status = 'waiting'""",
        (job_id,),
    )
    db.execute("DELETE FROM deliveries WHERE job_id = ? AND job IS NULL", (job_id,))


def attempted(db: Connection, delivery: Delivery, outcome: Attempted) -> None:
    db.execute(
        """UPDATE deliveries SET attempts = attempts + 1, status = ?, next_at = ?, last_error = ?,
             last_status = ?
           WHERE id = ? AND status = 'waiting' AND next_at = ?""",
        (
            outcome.status,
            outcome.next_at,
            outcome.error,
            outcome.http_status,
            delivery.id,
            delivery.next_at,
        ),
    )
    db.execute(
        "DELETE FROM deliveries WHERE id = ? AND status != 'waiting' AND job IS NOT NULL",
        (delivery.id,),
    )


def of_owner(
    db: Connection, owner: Owner, status: DeliveryStatus | None, limit: int
) -> tuple[Delivery, ...]:
    if not owner.tenant:
        return ()
    wanted = sorted(DeliveryStatus if status is None else {status})
    rows = db.execute(
        f"""{SELECT} WHERE tenant = ? AND status IN ({", ".join("?" * len(wanted))})
            ORDER BY created_at DESC, id DESC LIMIT ?""",
        (owner.tenant, *wanted, limit),
    )
    return tuple(_delivery(row) for row in rows)


def redeliver(db: Connection, owner: Owner, delivery_id: str, at: float) -> Delivery | None:
    db.execute(
        """UPDATE deliveries SET status = 'waiting', next_at = ?, attempts = 0
           WHERE id = ? AND tenant = ?""",
        (at, delivery_id, owner.tenant),
    )
    row = db.execute(
        f"{SELECT} WHERE id = ? AND tenant = ?", (delivery_id, owner.tenant)
    ).fetchone()
    return None if row is None else _delivery(row)


def _delivery(row: Iterable[Any]) -> Delivery:
    fields: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    fields["status"] = DeliveryStatus(fields["status"])
    return Delivery(**fields)
