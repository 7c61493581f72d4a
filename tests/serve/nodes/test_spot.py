from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

import serve.nodes.spot
from serve.nodes.spot import Cloud, MetadataUnavailable, Notice
from tests.cluster import free_port
from tests.serve.fake_metadata import AWS, GCP, FakeMetadata, serving

ACTION = AWS + "spot/instance-action"
REBALANCE = AWS + "events/recommendations/rebalance"
PREEMPTED = GCP + "preempted"


@pytest.fixture
def service() -> Iterator[FakeMetadata]:
    with serving() as fake:
        yield fake


class TestAmazon:
    def test_a_notice_says_when_the_machine_goes(self, service: FakeMetadata):
        metadata = Cloud.AWS.metadata(service.url)
        assert metadata.notice() is None
        service.items[ACTION] = '{"action": "terminate", "time": "2026-03-01T12:00:00Z"}'
        reason = "AWS reclaims this spot instance (terminate)"
        assert metadata.notice() == Notice(reason, 1772366400.0)

    @pytest.mark.parametrize("body", ["", "soon", '{"action": "hibernate"}', '{"time": 3}'])
    def test_a_notice_that_cannot_be_read_means_the_two_minutes_that_aws_promises(
        self, service: FakeMetadata, body: str
    ):
        service.items[ACTION] = body
        before = time.time()
        notice = Cloud.AWS.metadata(service.url).notice()
        assert notice is not None
        assert notice.deadline is not None
        assert before + 120 <= notice.deadline <= time.time() + 120

    def test_a_recommendation_counts_only_where_it_is_wanted(self, service: FakeMetadata):
        service.items[REBALANCE] = '{"noticeTime": "2026-03-01T12:00:00Z"}'
        assert Cloud.AWS.metadata(service.url).notice() is None
        assert REBALANCE not in service.asked
        wanted = Cloud.AWS.metadata(service.url, rebalance=True)
        assert wanted.notice() == Notice("AWS recommends to leave this spot instance", None)
        service.items[ACTION] = '{"action": "stop", "time": "2026-03-01T12:00:00Z"}'
        notice = wanted.notice()
        assert notice is not None
        assert notice.deadline == 1772366400.0

    def test_a_token_is_kept_until_it_is_refused(self, service: FakeMetadata):
        metadata = Cloud.AWS.metadata(service.url)
        for _ in range(3):
            assert metadata.notice() is None
        service.token = "token-2"
        assert metadata.notice() is None
        assert service.asked.count("/latest/api/token") == 2

    @pytest.mark.parametrize(("life_cycle", "is_spot"), [("spot", True), ("on-demand", False)])
    def test_the_machine_knows_how_it_was_bought(
        self, service: FakeMetadata, life_cycle: str, is_spot: bool
    ):
        service.items[AWS + "instance-life-cycle"] = life_cycle
        assert Cloud.AWS.metadata(service.url).is_spot() is is_spot


class TestGoogle:
    def test_a_preempted_machine_has_thirty_seconds(self, service: FakeMetadata):
        service.items[PREEMPTED] = "FALSE"
        metadata = Cloud.GCP.metadata(service.url)
        assert metadata.notice() is None
        service.items[PREEMPTED] = "TRUE"
        before = time.time()
        notice = metadata.notice()
        assert notice is not None
        assert notice.deadline is not None
        assert before + 30 <= notice.deadline <= time.time() + 30

    def test_a_look_without_news_waits_for_some(
        self, service: FakeMetadata, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(serve.nodes.spot, "_LONG_POLL_S", 0.1)
        service.items[PREEMPTED] = "FALSE"
        metadata = Cloud.GCP.metadata(service.url)
        assert [metadata.notice(), metadata.notice()] == [None, None]

    @pytest.mark.parametrize(("preemptible", "is_spot"), [("TRUE", True), ("FALSE", False)])
    def test_the_machine_knows_how_it_was_bought(
        self, service: FakeMetadata, preemptible: str, is_spot: bool
    ):
        service.items[GCP + "scheduling/preemptible"] = preemptible
        assert Cloud.GCP.metadata(service.url).is_spot() is is_spot


@pytest.mark.parametrize("cloud", Cloud)
class TestTrouble:
    def test_an_answer_that_is_none(self, service: FakeMetadata, cloud: Cloud):
        service.is_down = True
        with pytest.raises(MetadataUnavailable, match="answered 503"):
            cloud.metadata(service.url).notice()

    def test_no_service(self, cloud: Cloud):
        with pytest.raises(MetadataUnavailable, match="refused"):
            cloud.metadata(f"http://127.0.0.1:{free_port()}").is_spot()

    def test_no_proxy_of_the_environment_sees_a_request(
        self, service: FakeMetadata, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
        service.items[PREEMPTED] = "FALSE"
        assert cloud.metadata(service.url).notice() is None
