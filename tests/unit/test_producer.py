"""Produce batches: everything arrives in order, what is refused is reported and stops what is behind it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import aiokafka
import pytest
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError, NodeNotReadyError
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_classifier.errors import DeliveryError
from stream_classifier.records import OutputRecord
from stream_classifier.stream import producer as producer_module
from stream_classifier.stream.producer import BatchProducer, ProduceError, TransactionalProducer, key_partition
from tests.plugins.fake_kafka import FakeKafka

NOW = 1_700_000_000_000


def records(number: int, size: int = 10) -> list[OutputRecord]:
    return [(b"%d" % i, b"v" * size, NOW + i, [("h", b"%d" % i)]) for i in range(number)]


async def turns(number: int = 10) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


output_records = st.lists(
    st.tuples(
        st.none() | st.binary(max_size=20),
        st.none() | st.binary(max_size=300),
        st.integers(0, 1 << 41),
        st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=20)), max_size=3),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(output_records, st.integers(100, 2000))
def test_all_records_arrive_in_order_as_they_are(sent: list[OutputRecord], max_batch_bytes: int) -> None:
    async def scene() -> None:
        kafka = FakeKafka()
        async with kafka.producer(max_batch_bytes=max_batch_bytes) as producer:
            await producer.send("labels", 2, sent)
        assert kafka.log["labels", 2] == sent
        assert set(kafka.log) <= {("labels", 2)}

    asyncio.run(scene())


async def test_many_records_are_few_batches() -> None:
    kafka = FakeKafka()
    async with kafka.producer(max_batch_bytes=10_000) as producer:
        await producer.send("labels", 0, records(1000))
    assert len(kafka.requests) <= 5


async def test_a_record_without_a_timestamp_gets_the_current_time() -> None:
    kafka = FakeKafka()
    async with kafka.producer() as producer:
        await producer.send("labels", 0, [(None, b"v", None, [])])
    assert (kafka.log["labels", 0][0][2] or 0) > NOW


async def test_a_batch_goes_out_only_when_the_one_before_is_acknowledged() -> None:
    kafka = FakeKafka()
    gate = kafka.hold("labels", 0)
    async with kafka.producer(max_batch_bytes=200) as producer:
        sending = asyncio.ensure_future(producer.send("labels", 0, records(20)))
        await turns()
        assert len(kafka.requests) == 1
        assert not sending.done()
        gate.set()
        await sending
    assert kafka.log["labels", 0] == records(20)


async def test_a_refused_batch_is_reported_and_nothing_behind_it_is_sent() -> None:
    kafka = FakeKafka()
    sent = records(30)
    kafka.refuse("labels", KafkaTimeoutError(), key=b"17")
    async with kafka.producer(max_batch_bytes=200) as producer:
        with pytest.raises(ProduceError) as raised:
            await producer.send("labels", 0, sent)
    error = raised.value
    assert isinstance(error.cause, KafkaTimeoutError)
    assert sent[17] in error.records
    assert sent[-1] not in error.records, "of the batches behind it nothing is known"
    assert list(error.records) == sent[error.start : error.start + len(error.records)]
    assert kafka.log["labels", 0] == sent[: error.start]
    assert error.start > 0


class TestTopicsThatTakeLess:
    """A topic's max.message.bytes may be below the size of a produce batch: nobody asks the broker for it."""

    async def test_smaller_batches_are_tried_until_they_fit_and_from_then_on(self) -> None:
        kafka = FakeKafka()
        kafka.limit("labels", 1_000)
        sent = records(200, size=20)
        async with kafka.producer(max_batch_bytes=16_000) as producer:
            start = refused = 0
            while start < len(sent):
                try:
                    await producer.send("labels", 0, sent[start:])
                    break
                except ProduceError as error:
                    refused += 1
                    start += error.start
            assert refused <= 5  # 16,000 halved to below 1,000
            await producer.send("labels", 1, sent)  # not tried again on another partition
        assert kafka.log["labels", 0] == kafka.log["labels", 1] == sent
        assert (
            max(number for topic, number in kafka.requests[refused:]) * 20 > 250
        )  # at least a quarter of what it takes

    async def test_a_record_that_is_too_large_by_itself_makes_no_other_batch_smaller(self) -> None:
        kafka = FakeKafka()
        kafka.limit("labels", 1_000)
        async with kafka.producer() as producer:
            with pytest.raises(ProduceError) as raised:
                await producer.send("labels", 0, records(1, size=1_100))
            assert len(raised.value.records) == 1
            await producer.send("labels", 0, records(30))
        assert kafka.requests[1:] == [("labels", 30)]

    async def test_other_topics_keep_their_size(self) -> None:
        kafka = FakeKafka()
        kafka.limit("labels", 300)
        async with kafka.producer() as producer:
            with pytest.raises(ProduceError):
                await producer.send("labels", 0, records(50))
            await producer.send("others", 0, records(50))
        assert ("others", 50) in kafka.requests

    async def test_a_refusal_for_another_reason_makes_no_batch_smaller(self) -> None:
        kafka = FakeKafka()
        kafka.refuse("labels", KafkaTimeoutError(), key=b"7")
        async with kafka.producer() as producer:
            with pytest.raises(ProduceError):
                await producer.send("labels", 0, records(8))
            await producer.send("labels", 0, records(7))
        assert kafka.requests[-1] == ("labels", 7)

    async def test_a_large_record_behind_small_ones_makes_no_batch_larger_again(self) -> None:
        kafka = FakeKafka()
        kafka.limit("labels", 600)
        async with kafka.producer() as producer:
            for sent in (records(40), [*records(1), *records(1, size=5_000)]):
                with pytest.raises(ProduceError):
                    await producer.send("labels", 0, sent)
            kafka.requests.clear()
            await producer.send("labels", 0, records(40))  # half of that one, 2,500 bytes, would be refused
        assert kafka.log["labels", 0][-40:] == records(40)


class TestStartAndStop:
    async def test_acknowledged_means_by_all_in_sync_replicas_within_the_delivery_time_out(self) -> None:
        kafka = FakeKafka()
        async with kafka.producer(delivery_timeout_s=7.5, max_batch_bytes=1234):
            assert kafka.clients[0].settings == {
                "bootstrap_servers": ["kafka:9092"],
                "acks": "all",
                "linger_ms": 0,
                "max_batch_size": 1234,
                "request_timeout_ms": 3750,
            }

    @pytest.mark.parametrize(("delivery_s", "request_ms"), [(120.0, 30_000), (6.0, 3000)])
    async def test_a_request_without_an_answer_is_given_up_early_enough_to_be_sent_again(
        self, delivery_s: float, request_ms: int
    ) -> None:
        kafka = FakeKafka()
        async with kafka.producer(delivery_timeout_s=delivery_s):
            assert kafka.clients[0].settings["request_timeout_ms"] == request_ms
            assert kafka.clients[0]._message_accumulator._batch_ttl == delivery_s

    async def test_nothing_is_sent_before_start_or_after_stop(self) -> None:
        with pytest.raises(DeliveryError, match="not running"):
            await BatchProducer({}).send("labels", 0, records(1))
        kafka = FakeKafka()
        async with kafka.producer() as producer:
            await producer.stop(1.0)
            with pytest.raises(DeliveryError, match="not running"):
                await producer.send("labels", 0, records(1))
        assert not kafka.clients[0].running

    async def test_a_stop_between_two_batches_ends_the_sending(self) -> None:
        kafka = FakeKafka()
        gate = kafka.hold("labels", 0)
        async with kafka.producer(max_batch_bytes=200) as producer:
            sending = asyncio.ensure_future(producer.send("labels", 0, records(20)))
            await turns()
            stopping = asyncio.ensure_future(producer.stop(10.0))
            await turns()
            gate.set()
            with pytest.raises(DeliveryError):
                await sending
            await stopping
        assert 0 < len(kafka.log["labels", 0]) < 20

    @pytest.mark.parametrize("error", [KafkaConnectionError(), asyncio.CancelledError()])
    async def test_a_client_that_cannot_start_is_closed(
        self, error: BaseException, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stopped: list[bool] = []

        class Client:
            _message_accumulator = SimpleNamespace()

            def __init__(self, **settings: Any) -> None: ...

            async def start(self) -> None:
                raise error

            async def stop(self) -> None:
                stopped.append(True)

        monkeypatch.setattr(aiokafka, "AIOKafkaProducer", Client)
        with pytest.raises(type(error)):
            await BatchProducer({}).start()
        assert stopped == [True]

    async def test_what_the_broker_never_acknowledges_does_not_hold_the_stop(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """aiokafka's sender waits for its open requests when it is cancelled, and its own stop waits for the sender."""
        closed: list[str] = []

        async def open_request() -> None:
            await asyncio.Event().wait()

        async def send_for_ever() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await open_request()

        class Client:
            _closed = False
            _message_accumulator = SimpleNamespace()

            def __init__(self, **settings: Any) -> None:
                self.client, self._sender = self, self
                self.sender_task = asyncio.ensure_future(send_for_ever())

            async def start(self) -> None: ...

            async def flush(self) -> None:
                await asyncio.Event().wait()

            async def close(self) -> None:
                closed.append("connections")

        monkeypatch.setattr(aiokafka, "AIOKafkaProducer", Client)
        producer = BatchProducer({})
        await producer.start()
        await turns()
        await asyncio.wait_for(producer.stop(0.01), 10)
        assert closed == ["connections"]


class TestTransactionsOverABrokenNetwork:
    class Client:
        """Its connections break as often as it is told to."""

        def __init__(self, breaks: int) -> None:
            self.breaks = breaks
            self.client = self
            self._message_accumulator = SimpleNamespace()
            self.running = False

        def __call__(self, **settings: Any) -> TestTransactionsOverABrokenNetwork.Client:
            return self

        async def coordinator_lookup(self, kind: int, key: str) -> int:
            self._break()
            return 1

        async def start(self) -> None:
            self._break()
            self.running = True

        async def stop(self) -> None:
            self.running = False

        def _break(self) -> None:
            if self.breaks:
                self.breaks -= 1
                raise KafkaConnectionError()

    def producer(
        self, client: Client, monkeypatch: pytest.MonkeyPatch, delivery_timeout_s: float = 60.0
    ) -> TransactionalProducer:
        monkeypatch.setattr(aiokafka, "AIOKafkaProducer", client)
        monkeypatch.setattr(producer_module, "_RETRY_S", 0.0)
        return TransactionalProducer(
            {}, transactional_id="id", transaction_timeout_s=60.0, delivery_timeout_s=delivery_timeout_s
        )

    async def test_a_connection_that_breaks_at_start_is_made_anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        client = self.Client(breaks=3)
        await self.producer(client, monkeypatch).start()
        assert client.running

    async def test_but_not_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        client = self.Client(breaks=1 << 60)
        with pytest.raises(KafkaTimeoutError):
            await self.producer(client, monkeypatch, delivery_timeout_s=0.01).start()
        assert not client.running

    async def test_one_that_breaks_while_the_coordinator_is_looked_for_is_an_error_aiokafka_tries_again_after(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = self.Client(breaks=0)
        await self.producer(client, monkeypatch).start()
        client.breaks = 1
        with pytest.raises(NodeNotReadyError):
            await client.coordinator_lookup(1, "id")
        assert await client.coordinator_lookup(1, "id") == 1


KAFKAS_HASHES = [  # UtilsTest.testMurmur2 of Apache Kafka: what every Java producer computes
    (b"21", -973932308),
    (b"foobar", -790332482),
    (b"a-little-bit-long-string", -985981536),
    (b"a-little-bit-longer-string", -1486304829),
    (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    (b"abc", 479470107),
]


class TestKeyPartition:
    @pytest.mark.parametrize(("key", "hashed"), KAFKAS_HASHES)
    @pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
    def test_keys_go_where_kafkas_own_partitioner_puts_them(self, key: bytes, hashed: int, count: int) -> None:
        assert key_partition(key, 0, count) == (hashed & 0x7FFFFFFF) % count

    @pytest.mark.parametrize(("source", "count", "partition"), [(0, 3, 0), (2, 3, 2), (3, 3, 0), (7, 2, 1)])
    def test_a_null_key_goes_by_the_source_partition(self, source: int, count: int, partition: int) -> None:
        assert key_partition(None, source, count) == partition
