"""Deliveries from a store to real receivers: what is repeated, what is given up, and who waits."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook

from deployments.metrics import declared as metrics
from serve.jobs.job import Job, Owner
from serve.jobs.store.delivery_store import Attempted, Delivery, DeliveryStatus
from serve.webhooks.post import WebhookPost
from serve.webhooks.secrets import WebhookSecrets
from serve.webhooks.sender import WebhookSender, share_of
from serve.webhooks.webhooks_config import WebhooksConfig
from tests.recorder import Recorder, recorded
from tests.serve.webhooks.conftest import HOST
from tests.serve.webhooks.fakes import FakeDeliveries
from tests.serve.webhooks.receiver import Authority, Received, Receiver, receiving, status

__all__ = ["recorded"]

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


class Bench:
    """A sender over a store in memory; `at` is its clock."""

    def __init__(
        self,
        authority: Authority,
        *receivers: Receiver,
        patience_s: float = 60.0,
        **config: Any,
    ) -> None:
        self._patience_s = patience_s
        self.store = FakeDeliveries()
        self.at = 1_700_000_100.0
        self.bad: set[str] = set()
        self._authority = authority
        self._config = WebhooksConfig.model_validate(
            {
                "allow": [f"https://{HOST}:{receiver.port}" for receiver in receivers],
                "secret": SECRET,
                "allow_private": True,
                "timeout_s": 20.0,
                "poll_s": 0.01,
                **config,
            }
        )

    def message(self, job: Job) -> dict[str, Any]:
        if job.id in self.bad:
            raise RuntimeError("a mistake of ours")
        return {"type": f"job.{job.status}", "data": {"id": job.id}}

    def sender(self) -> WebhookSender:
        secrets = WebhookSecrets.load(self._config)
        assert secrets is not None
        return WebhookSender(
            self._config,
            secrets,
            store=self.store,
            message=self.message,
            post=WebhookPost(
                timeout_s=self._config.timeout_s,
                allow_private=True,
                resolve=_here,
                context=self._authority.trusting(),
            ),
            now=lambda: self.at,
            chance=lambda: 0.5,
            patience_s=self._patience_s,
        )

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.sender().run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def noted(self) -> tuple[Delivery, Attempted]:
        return await self.store.noted.get()


async def _here(_host: str, _port: int) -> Sequence[str]:
    return ["127.0.0.1"]


def url_of(receiver: Receiver) -> str:
    return f"https://{HOST}:{receiver.port}/hook"


async def arrived(receiver: Receiver) -> Received:
    await asyncio.to_thread(receiver.arrived.acquire)
    return receiver.received[-1]


@pytest.fixture
def bench(authority: Authority, receiver: Receiver) -> Bench:
    return Bench(authority, receiver)


async def test_a_delivery(
    bench: Bench, receiver: Receiver, recorded: Recorder, monkeypatch: pytest.MonkeyPatch
):
    bench.store.add("msg_1", url_of(receiver))
    async with bench.sending():
        delivery, outcome = await bench.noted()
    assert outcome == Attempted(status=DeliveryStatus.DELIVERED, next_at=bench.at, http_status=204)
    [message] = receiver.received
    assert json.loads(message.body) == {"type": "job.succeeded", "data": {"id": "job_msg_1"}}
    assert message.headers["content-type"] == "application/json"
    assert message.headers["webhook-id"] == delivery.id == "msg_1"
    assert message.headers["webhook-timestamp"] == str(int(bench.at))
    # Verifiers go by the clock of now; this sender's stands still.
    monkeypatch.setattr(
        Webhook, "_Webhook__verify_timestamp", lambda *_: datetime.fromtimestamp(bench.at, UTC)
    )
    Webhook(SECRET).verify(message.body, message.headers)
    assert recorded.total(metrics.WEBHOOK_ATTEMPTS, outcome="delivered") == 1
    assert len(recorded.values(metrics.WEBHOOK_SECONDS)) == 1


async def test_a_failure_is_sent_again_under_the_same_id(bench: Bench, receiver: Receiver):
    receiver.answers += [status(500), status(503, retry_after="600"), status(200)]
    bench.store.add("msg_1", url_of(receiver))
    async with bench.sending():
        _, first = await bench.noted()
        assert first == Attempted(
            status=DeliveryStatus.WAITING,
            next_at=bench.at + 5,
            error="answered 500",
            http_status=500,
        )
        bench.at += 5
        _, second = await bench.noted()
        assert (second.next_at, second.error) == (bench.at + 600, "answered 503")
        bench.at += 600
        _, third = await bench.noted()
        assert third.status is DeliveryStatus.DELIVERED
    assert {message.headers["webhook-id"] for message in receiver.received} == {"msg_1"}
    stamps = [int(message.headers["webhook-timestamp"]) for message in receiver.received]
    assert [stamp - stamps[0] for stamp in stamps] == [0, 5, 605]
    assert bench.store.kept["msg_1"].attempts == 3


async def test_a_redirect_is_a_failure_that_says_so(bench: Bench, receiver: Receiver):
    receiver.answers.append(status(302, location="http://169.254.169.254/latest/meta-data/"))
    bench.store.add("msg_1", url_of(receiver))
    async with bench.sending():
        _, outcome = await bench.noted()
    assert outcome.status is DeliveryStatus.WAITING
    assert outcome.error == "answered 302: redirects are not followed; name the final URL"
    assert outcome.http_status == 302


async def test_gone_is_given_up_at_once(bench: Bench, receiver: Receiver, recorded: Recorder):
    receiver.answers.append(status(410))
    bench.store.add("msg_1", url_of(receiver))
    async with bench.sending():
        _, outcome = await bench.noted()
    assert outcome.status is DeliveryStatus.DEAD
    assert outcome.error == "answered 410: the receiver wants no more"
    assert recorded.total(metrics.WEBHOOK_ATTEMPTS, outcome="dead") == 1


async def test_dead_after_a_day_and_alive_again_by_hand(bench: Bench, receiver: Receiver):
    receiver.answers += [status(500)] * 14
    bench.store.add("msg_1", url_of(receiver))
    began = bench.at
    async with bench.sending():
        while (outcome := (await bench.noted())[1]).status is DeliveryStatus.WAITING:
            bench.at = outcome.next_at
        assert outcome.status is DeliveryStatus.DEAD
        assert outcome.error == "answered 500"
        assert 20 * 3600 < bench.at - began <= 86_400
        assert await bench.store.redeliver(Owner(tenant="anna"), "msg_1", at=bench.at)
        receiver.answers.append(status(500))
        assert (await bench.noted())[1].next_at == bench.at + 5
        bench.at += 5
        assert (await bench.noted())[1].status is DeliveryStatus.DELIVERED


async def test_a_restart_in_the_middle(bench: Bench, receiver: Receiver):
    receiver.answers.append(lambda _: receiver.closing.wait(30))
    bench.store.add("msg_1", url_of(receiver))
    async with bench.sending():
        await arrived(receiver)  # and the sender ends before there is an answer
    held = bench.store.kept["msg_1"]
    assert (held.status, held.attempts) == (DeliveryStatus.WAITING, 0)
    assert held.next_at > bench.at
    bench.at = held.next_at
    async with bench.sending():
        _, outcome = await bench.noted()
    assert outcome.status is DeliveryStatus.DELIVERED
    assert [m.headers["webhook-id"] for m in receiver.received] == ["msg_1", "msg_1"]


async def test_two_replicas_share_the_work(bench: Bench, receiver: Receiver):
    for number in range(20):
        bench.store.add(f"msg_{number}", url_of(receiver))
    async with bench.sending(), bench.sending():
        for _ in range(20):
            assert (await bench.noted())[1].status is DeliveryStatus.DELIVERED
    assert len({m.headers["webhook-id"] for m in receiver.received}) == 20
    assert len(receiver.received) == 20


@pytest.mark.parametrize("tenants", [("anna", "ben"), ("", "")])
async def test_a_slow_target_holds_up_no_others(
    authority: Authority, certificate: Any, receiver: Receiver, tenants: tuple[str, str]
):
    with receiving(certificate) as slow:
        bench = Bench(authority, receiver, slow, concurrency=4, patience_s=0.01)
        slow.answers += [lambda _: slow.closing.wait(30)] * 50
        for number in range(50):
            bench.store.add(f"slow_{number}", url_of(slow), tenant=tenants[0], at=1.0)
        bench.store.add("quick", url_of(receiver), tenant=tenants[1], at=2.0)
        async with bench.sending():
            delivery, outcome = await bench.noted()
            assert (delivery.id, outcome.status) == ("quick", DeliveryStatus.DELIVERED)
            await arrived(slow)
        assert len(slow.received) == 1  # a quarter of the places


async def test_a_burst_to_a_quick_target_is_sent_at_once(authority: Authority, receiver: Receiver):
    bench = Bench(authority, receiver, concurrency=4)
    for number in range(30):
        bench.store.add(f"msg_{number}", url_of(receiver))
    async with bench.sending():
        for _ in range(30):
            assert (await bench.noted())[1].status is DeliveryStatus.DELIVERED
    assert len(receiver.received) == 30


async def test_a_target_that_is_not_allowed_any_more(bench: Bench, receiver: Receiver):
    bench.store.add("msg_1", "https://elsewhere.example.com/")
    async with bench.sending():
        _, outcome = await bench.noted()
    assert outcome.status is DeliveryStatus.DEAD
    assert "is not allowed here" in (outcome.error or "")


async def test_a_name_that_resolves_inside(
    bench: Bench, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    sender = bench.sender()

    async def metadata(_host: str, _port: int) -> Sequence[str]:
        return ["169.254.169.254"]

    monkeypatch.setattr(sender._post._addresses, "_resolve", metadata)
    bench.store.add("msg_1", url_of(receiver))
    task = asyncio.create_task(sender.run())
    _, outcome = await bench.noted()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert outcome.status is DeliveryStatus.WAITING
    assert "169.254.169.254 is link-local" in (outcome.error or "")
    assert receiver.received == []


async def test_a_store_that_goes_away_and_comes_back(bench: Bench, receiver: Receiver):
    bench.store.is_down = True
    bench.store.add("msg_1", url_of(receiver))
    async with bench.sending():
        for _ in range(3):
            await bench.store.asked.acquire()
        bench.store.is_down = False
        assert (await bench.noted())[1].status is DeliveryStatus.DELIVERED


async def test_a_store_that_goes_away_during_an_attempt(bench: Bench, receiver: Receiver):
    def fails(handler: Any) -> None:
        bench.store.is_down = True
        status(204)(handler)

    receiver.answers.append(fails)
    bench.store.add("msg_1", url_of(receiver))
    async with bench.sending():
        await bench.store.missed.wait()
        bench.store.is_down = False
        bench.at = bench.store.kept["msg_1"].next_at
        assert (await bench.noted())[1].status is DeliveryStatus.DELIVERED
    assert [m.headers["webhook-id"] for m in receiver.received] == ["msg_1", "msg_1"]


async def test_one_message_that_nobody_foresaw_ends_no_others(bench: Bench, receiver: Receiver):
    bench.bad.add("job_bad")
    bench.store.add("bad", url_of(receiver), at=1.0)
    bench.store.add("good", url_of(receiver), at=2.0)
    async with bench.sending():
        delivery, outcome = await bench.noted()
    assert (delivery.id, outcome.status) == ("good", DeliveryStatus.DELIVERED)
    assert bench.store.kept["bad"].status is DeliveryStatus.WAITING


def test_shares_are_of_tenants_and_else_of_targets():
    delivery = FakeDeliveries().add("msg_1", "https://Hooks.example.com/secret", tenant="anna")
    assert share_of(delivery) == "anna"
    assert share_of(replace(delivery, tenant="")) == "https://hooks.example.com"
    assert share_of(replace(delivery, tenant="", url="nonsense")) == ""
