"""The hooks of Faust, mode and aiokafka that the stream stands on, half of them private: their names and signatures.

When one fails after an upgrade, read the modules of stream/ that use it against the new version before widening the
range in pyproject.toml.
"""

from __future__ import annotations

import inspect

import aiokafka
import pytest
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import TopicPartitionState
from aiokafka.producer.message_accumulator import BatchBuilder, MessageAccumulator
from aiokafka.producer.transaction_manager import TransactionManager
from faust.app.base import App, BootStrategy
from faust.streams import Stream
from faust.transport.conductor import Conductor
from faust.transport.consumer import Consumer
from faust.transport.drivers import aiokafka as driver
from faust.transport.utils import DefaultSchedulingStrategy
from faust.types.tuples import ConsumerMessage

HOOKS = [
    (driver.Consumer, "_to_message", "(self, tp, record)"),
    (driver.Consumer, "_new_consumer_thread", "(self)"),
    (driver.Consumer, "_getmany", "(self, active_partitions, timeout)"),
    (Consumer, "_wait_next_records", "(self, timeout)"),
    (Consumer, "_filter_tps_with_pending_acks", "(self, topics)"),
    (Consumer, "_new_offset", "(self, tp)"),
    (Consumer, "_add_gap", "(self, tp, offset_from, offset_to)"),
    (Consumer, "ack", "(self, message)"),
    (Consumer, "wait_empty", "(self)"),
    (Consumer, "perform_seek", "(self)"),
    (Consumer, "on_partitions_revoked", "(self, revoked)"),
    (Consumer, "on_stop", "(self)"),
    (Consumer, "commit", "(self, topics, start_new_transaction)"),
    (Consumer, "force_commit", "(self, topics, start_new_transaction)"),
    (Consumer, "on_partitions_assigned", "(self, assigned, generation_id)"),
    (Consumer, "maybe_wait_for_commit_to_finish", "(self)"),
    (Consumer, "stop_flow", "(self)"),
    (Consumer, "pause_partitions", "(self, tps)"),
    (driver.AIOKafkaConsumerThread, "_create_worker_consumer", "(self, transport)"),
    (driver.AIOKafkaConsumerThread, "getmany", "(self, active_partitions, timeout)"),
    (driver.AIOKafkaConsumerThread, "_fetch_records", "(self, consumer, active_partitions, timeout, max_records)"),
    (driver.AIOKafkaConsumerThread, "_ensure_consumer", "(self)"),
    (driver.AIOKafkaConsumerThread, "seek_to_beginning", "(self, partitions)"),
    (driver.AIOKafkaConsumerThread, "seek_wait", "(self, partitions)"),
    (driver.AIOKafkaConsumerThread, "commit", "(self, offsets)"),
    (driver.AIOKafkaConsumerThread, "_commit", "(self, offsets)"),
    (driver.AIOKafkaConsumerThread, "close", "(self)"),
    (driver.AIOKafkaConsumerThread, "assignment", "(self)"),
    (aiokafka.AIOKafkaConsumer, "end_offsets", "(self, partitions)"),
    (aiokafka.AIOKafkaConsumer, "seek", "(self, partition, offset)"),
    (GroupCoordinator, "_send_req", "(self, request)"),
    (GroupCoordinator, "coordinator_dead", "(self)"),
    (GroupCoordinator, "_do_fetch_commit_offsets", "(self, partitions)"),
    (driver.ThreadDelegateConsumer, "earliest_offsets", "(self, partitions)"),
    (driver, "credentials_to_aiokafka_auth", "(credentials, ssl_context)"),
    (driver, "server_list", "(urls, default_port)"),
    (DefaultSchedulingStrategy, "iterate", "(self, records)"),
    (Stream, "noack", "(self)"),
    (Stream, "ack", "(self, event)"),
    (Stream, "events", "(self)"),
    (Conductor, "acks_enabled_for", "(self, topic)"),
    (App, "on_webserver_init", "(self, web)"),
    (App, "_stop_consumer", "(self)"),
    (BootStrategy, "server", "(self)"),
    (BatchBuilder, "append", "(self, timestamp, key, value, headers)"),
    (BatchBuilder, "size", "(self)"),
    (aiokafka.AIOKafkaProducer, "create_batch", "(self)"),
    (aiokafka.AIOKafkaProducer, "send_batch", "(self, batch, topic, partition)"),
    (GroupCoordinator, "request_rejoin", "(self)"),
    (MessageAccumulator, "fail_all", "(self, exception)"),
    (TransactionManager, "increment_sequence_number", "(self, tp, increment)"),
    (TransactionManager, "wait_for_transaction_end", "(self)"),
    (GroupCoordinator, "check_errors", "(self)"),
    (Fetcher, "fetched_records", "(self, partitions, timeout, max_records)"),
    (Fetcher, "_proc_fetch_request", "(self, assignment, node_id, request)"),
    (GroupCoordinator, "fetch_committed_offsets", "(self, partitions)"),
    (BatchBuilder, "_set_producer_state", "(self, producer_id, producer_epoch, base_sequence)"),
]


@pytest.mark.parametrize(("owner", "name", "signature"), HOOKS, ids=[f"{o.__name__}.{n}" for o, n, _ in HOOKS])
def test_a_hook_has_the_signature_we_use(owner: type, name: str, signature: str) -> None:
    parameters = inspect.signature(getattr(owner, name)).parameters
    assert f"({', '.join(parameters)})" == signature


def test_attributes_we_read_and_set_are_there() -> None:
    consumer = inspect.getsource(aiokafka.AIOKafkaConsumer)
    for attribute in ("_isolation_level", "_fetch_max_wait_ms", "_max_poll_records", "_subscription"):
        assert f"self.{attribute}" in consumer
    base = inspect.getsource(Consumer.__init__)
    for attribute in ("_read_offset", "_committed_offset", "_unacked_messages", "scheduler"):
        assert f"self.{attribute}" in base
    assert "tp_last_committed_at" in driver.AIOKafkaConsumerThread.__annotations__
    producer = inspect.getsource(aiokafka.AIOKafkaProducer.__init__)
    for attribute in ("_txn_manager", "_message_accumulator", "_sender"):
        assert f"self.{attribute}" in producer
    state = inspect.getsource(TopicPartitionState)
    assert "self.lso" in state
    assert {"position", "has_valid_position"} <= set(dir(TopicPartitionState))


def test_the_fetcher_finds_its_parser_by_names_we_replace() -> None:
    assert {"MemoryRecords", "PartitionRecords"} <= set(Fetcher._proc_fetch_request.__code__.co_names)
    assert "self._fetcher = Fetcher(" in inspect.getsource(aiokafka.AIOKafkaConsumer.start)


def test_aiokafka_overlooks_the_groups_error_in_an_answer_about_committed_offsets() -> None:
    """When it does not any more, stream/committed_offsets.py can go."""
    assert "response.error_code" not in inspect.getsource(GroupCoordinator._do_fetch_commit_offsets)


def test_aiokafka_asserts_that_a_partition_is_there() -> None:
    assert '"Unrecognized partition"' in inspect.getsource(aiokafka.AIOKafkaProducer._partition)


def test_the_isolation_level_is_read_when_the_consumer_starts() -> None:
    assert "isolation_level=self._isolation_level" in inspect.getsource(aiokafka.AIOKafkaConsumer.start)


def test_a_message_takes_the_generation_it_belongs_to() -> None:
    assert "generation_id" in inspect.signature(ConsumerMessage.__init__).parameters
