"""TLS, mutual TLS and SASL to Apache Kafka with real listeners; what is refused, and that no secret is ever shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.plugins.brokers import ApacheKafka, Broker, Record, kafka_script
from tests.plugins.ports import free_port, free_port_pair
from tests.plugins.workers import Worker, to_toml

pytestmark = pytest.mark.kafka

USER, PASSWORD = "alice", "correct-horse-battery"
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@dataclass(frozen=True)
class SecureKafka:
    """A node with a listener of each kind; `broker` is the open one, for the test's own clients."""

    broker: Broker
    ports: Mapping[str, int]
    ca: Path
    cert: Path
    key: Path
    other_ca: Path


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    folder = tmp_path_factory.mktemp("secure-kafka")
    authority, stranger = trustme.CA(), trustme.CA()
    files = {name: folder / f"{name}.pem" for name in ("ca", "other-ca", "server", "client-cert", "client-key")}
    authority.cert_pem.write_to_path(str(files["ca"]))
    stranger.cert_pem.write_to_path(str(files["other-ca"]))
    server = authority.issue_cert("127.0.0.1", "localhost")
    key = load_pem_private_key(server.private_key_pem.bytes(), None)  # Kafka reads PKCS 8 only
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files["server"].write_bytes(pem + b"".join(chain.bytes() for chain in server.cert_chain_pems))
    client = authority.issue_cert("client.example")
    client.private_key_pem.write_to_path(str(files["client-key"]))
    client.cert_chain_pems[0].write_to_path(str(files["client-cert"]))

    port = free_port_pair()
    ports = {name: free_port() for name in ("SSL", "MTLS", "SASL_SSL", "SASL_PLAINTEXT")}
    listeners = [f"{name}://127.0.0.1:{number}" for name, number in {"PLAINTEXT": port, **ports}.items()]
    node = ApacheKafka(
        kafka_script(),
        folder / "node",
        port,
        settings=[
            f"listeners={','.join(listeners)},CONTROLLER://127.0.0.1:{port + 1}",
            f"advertised.listeners={','.join(listeners)}",
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,MTLS:SSL,"
            "SASL_SSL:SASL_SSL,SASL_PLAINTEXT:SASL_PLAINTEXT",
            "ssl.keystore.type=PEM",
            f"ssl.keystore.location={files['server']}",
            "ssl.truststore.type=PEM",
            f"ssl.truststore.location={files['ca']}",
            "listener.name.mtls.ssl.client.auth=required",
            f"sasl.enabled.mechanisms={','.join(MECHANISMS)}",
            *(
                f"listener.name.{listener}.plain.sasl.jaas.config=org.apache.kafka.common.security.plain."
                f'PlainLoginModule required user_{USER}="{PASSWORD}";'
                for listener in ("sasl_ssl", "sasl_plaintext")
            ),
            *(
                f"listener.name.{listener}.scram-sha-{bits}.sasl.jaas.config="
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
                for listener in ("sasl_ssl", "sasl_plaintext")
                for bits in (256, 512)
            ),
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users=User:ANONYMOUS;User:CN=client.example",
            "allow.everyone.if.no.acl.found=true",
        ],
    )
    broker = Broker(node.start(), "kafka")
    with broker.admin() as admin:
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):  # one of a user at a time
            credential = UserScramCredentialUpsertion(USER, mechanism, PASSWORD)
            assert admin.alter_user_scram_credentials([credential]) == {USER: None}
    yield SecureKafka(broker, ports, files["ca"], files["client-cert"], files["client-key"], files["other-ca"])
    node.kill()


Start = Callable[..., Worker]
Name = Callable[[str], str]


def run(
    kafka: SecureKafka, start_worker: Start, unique_name: Name, listener: str, environ: Mapping[str, str], **app: Any
) -> Worker:
    """One record through a worker on that listener, all three of its clients included; then it stops."""
    source = unique_name("source")
    kafka.broker.create_topic(source)
    kafka.broker.produce(source, [Record(b"a text")])
    worker = start_worker(
        f"kafka://127.0.0.1:{kafka.ports[listener]}",
        classifiers=[{"name": "null", "model": "null", "source": source, "sink": f"{source}.results"}],
        app={"id": unique_name("app"), **app},
        environ=environ,
    )
    assert len(kafka.broker.consume_all(f"{source}.results", count=1)) == 1
    assert worker.stop() == 0
    assert PASSWORD not in worker.log
    return worker


def refused(kafka: SecureKafka, tmp_path: Path, listener: str, environ: Mapping[str, str], **app: Any) -> str:
    """What `run` says as it refuses to start; it must do so at once, long before connect_timeout_s is over."""
    file = tmp_path / "pipeline.toml"
    settings = {
        "app": {"id": "app", "broker": f"kafka://127.0.0.1:{kafka.ports[listener]}", "connect_timeout_s": 600.0, **app},
        "web": {"port": free_port()},
        "classifier": [{"name": "null", "model": "null", "source": "s", "sink": "t"}],
    }
    file.write_text(to_toml(settings))
    done = subprocess.run(
        [sys.executable, "-m", "stream_classifier", "run", str(file)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert PASSWORD not in done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


SECRET = {"STREAM_CLASSIFIER__APP__SASL__PASSWORD": PASSWORD}


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_sasl_over_tls(kafka: SecureKafka, start_worker: Start, unique_name: Name, mechanism: str) -> None:
    sasl = {"mechanism": mechanism, "username": USER}
    run(kafka, start_worker, unique_name, "SASL_SSL", SECRET, tls={"ca": str(kafka.ca)}, sasl=sasl)


def test_a_password_in_a_file_and_a_warning_where_it_travels_in_the_clear(
    kafka: SecureKafka, start_worker: Start, unique_name: Name, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    sasl = {"mechanism": "PLAIN", "username": USER, "password_file": str(tmp_path / "password")}
    worker = run(kafka, start_worker, unique_name, "SASL_PLAINTEXT", {}, sasl=sasl)
    assert "PLAIN without app.tls sends the password in the clear" in worker.log


def test_tls_and_mutual_tls(kafka: SecureKafka, start_worker: Start, unique_name: Name) -> None:
    run(kafka, start_worker, unique_name, "SSL", {}, tls={"ca": str(kafka.ca)})
    mutual = {"ca": str(kafka.ca), "cert": str(kafka.cert), "key": str(kafka.key)}
    run(kafka, start_worker, unique_name, "MTLS", {}, tls=mutual)


def test_a_broker_of_another_authority_is_refused_at_once(kafka: SecureKafka, tmp_path: Path) -> None:
    line = refused(kafka, tmp_path, "SSL", {}, tls={"ca": str(kafka.other_ca)})
    assert re.search(r"certificate .*app\.tls\.ca", line)


def test_a_wrong_password_is_refused_at_once(kafka: SecureKafka, tmp_path: Path) -> None:
    for mechanism in MECHANISMS:
        sasl = {"mechanism": mechanism, "username": "mallory"}
        line = refused(kafka, tmp_path, "SASL_SSL", SECRET, tls={"ca": str(kafka.ca)}, sasl=sasl)
        assert "mallory" in line
        assert "app.sasl" in line


def test_a_missing_client_certificate_is_refused_at_once(kafka: SecureKafka, tmp_path: Path) -> None:
    assert "app.tls.cert" in refused(kafka, tmp_path, "MTLS", {}, tls={"ca": str(kafka.ca)})


DENIALS: dict[str, tuple[list[tuple[str, str]], ACLOperation, int, str]] = {
    # Making a topic needs CREATE on the topic or on the cluster.
    "create sink": (
        [("TOPIC", "{source}.results"), ("CLUSTER", "kafka-cluster")],
        ACLOperation.CREATE,
        2,
        "topic '{source}.results' does not exist and the broker does not let us create it",
    ),
    "read source": ([("TOPIC", "{source}")], ACLOperation.READ, 1, "{source}"),
    "write sink": ([("TOPIC", "{source}.results")], ACLOperation.WRITE, 1, "{source}.results[0] did not take"),
    "read group": ([("GROUP", "{group}")], ACLOperation.READ, 1, "does not let us into the group {group}"),
}


@pytest.mark.parametrize("denied", DENIALS)
def test_what_the_broker_does_not_allow_gives_one_clear_line(
    kafka: SecureKafka, start_worker: Start, unique_name: Name, denied: str
) -> None:
    resources, operation, code, message = DENIALS[denied]
    names = {"source": unique_name("source"), "group": unique_name("group")}
    source = names["source"]
    kafka.broker.create_topic(source)
    if denied != "create sink":
        kafka.broker.create_topic(f"{source}.results")
        kafka.broker.create_topic(f"{source}.dead-letter")
    kafka.broker.produce(source, [Record(b"a text")])
    patterns = [ResourcePattern(ResourceType[kind], name.format(**names)) for kind, name in resources]
    with kafka.broker.admin() as admin:
        for pattern in patterns:
            everyone = ACL("User:*", "*", ACLOperation.ALL, ACLPermissionType.ALLOW, pattern)
            not_her = ACL(f"User:{USER}", "*", operation, ACLPermissionType.DENY, pattern)
            assert not admin.create_acls([everyone, not_her])["failed"]
    worker = start_worker(
        f"kafka://127.0.0.1:{kafka.ports['SASL_PLAINTEXT']}",
        classifiers=[{"name": "null", "model": "null", "source": source, "sink": f"{source}.results"}],
        app={"id": names["group"], "sasl": {"mechanism": "SCRAM-SHA-256", "username": USER}},
        environ=SECRET,
        ready=False,
    )
    assert worker.wait(60) == code
    assert message.format(**names) in worker.log.splitlines()[-1]
    assert "Traceback" not in worker.log
