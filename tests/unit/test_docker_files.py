"""The container files fit together: what they name exists, images are pinned, nothing secret is in them.

The images themselves are built and run where there is a Docker daemon; docker/README.md says how.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_classifier import config

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


@pytest.fixture
def settings() -> config.Settings:
    """docker/worker.toml as the worker reads it, with the token from the environment instead of Docker's secret."""
    return config.load(DOCKER / "worker.toml", environ={"STREAM_CLASSIFIER__WEB__TOKEN": "secret"})


def test_worker_configuration_is_accepted_and_reaches_the_broker_of_compose(settings: config.Settings) -> None:
    listeners = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert settings.app.broker.removeprefix("kafka://") in listeners
    assert settings.classifiers[0].model == "null"


def test_worker_takes_its_token_from_the_secret_that_compose_mounts() -> None:
    (secret,) = SERVICES["worker"]["secrets"]
    assert f'token_file = "/run/secrets/{secret}"' in (DOCKER / "worker.toml").read_text()
    assert COMPOSE["secrets"][secret] == {"environment": "WEB_TOKEN"}


def test_producer_feeds_the_workers_source(settings: config.Settings) -> None:
    classifier = settings.classifiers[0]
    assert f'"{classifier.source}"' in (DOCKER / "produce.py").read_text()
    ast.parse((DOCKER / "produce.py").read_text())


def test_worker_has_longer_to_stop_than_to_drain(settings: config.Settings) -> None:
    assert float(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > settings.app.drain_timeout_s


def test_prometheus_scrapes_every_worker_with_its_token(settings: config.Settings) -> None:
    (job,) = yaml.safe_load((DOCKER / "prometheus.yml").read_text())["scrape_configs"]
    assert job["dns_sd_configs"] == [{"names": ["worker"], "type": "A", "port": settings.web.port}]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{SERVICES['prometheus']['secrets'][0]}"
    assert "metrics_path" not in job  # its default is ours


def test_image_probes_and_exposes_the_port_the_worker_serves(settings: config.Settings) -> None:
    assert f"127.0.0.1:{settings.web.port}/livez" in DOCKERFILE
    assert f"EXPOSE {settings.web.port}" in DOCKERFILE


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_pinned_and_names_what_exists(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[a-z0-9/.-]+:v?\d+\.\d+\.\d+", service["image"])
    assert set(service.get("depends_on", ())) <= SERVICES.keys()
    assert set(service.get("secrets", ())) <= COMPOSE["secrets"].keys()
    for mount in service.get("volumes", ()):
        source, _, options = mount.split(":")
        assert (DOCKER / source).is_file()
        assert options == "ro"
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), "published on loopback only"


def test_health_that_others_wait_for_is_defined() -> None:
    waited_for = {
        name
        for service in SERVICES.values()
        if isinstance(service.get("depends_on"), dict)
        for name, terms in service["depends_on"].items()
        if terms["condition"] == "service_healthy"
    }
    assert waited_for == {"kafka", "worker"}
    assert "healthcheck" in SERVICES["kafka"]
    assert "HEALTHCHECK" in DOCKERFILE


def test_image_is_built_from_files_that_exist_and_are_sent() -> None:
    build = SERVICES["worker"]["build"]
    context = (DOCKER / build["context"]).resolve()
    assert context == ROOT
    assert (context / build["dockerfile"]).is_file()
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M) for source in line.split()[:-1]}
    assert copied == sent
    assert [source for source in sorted(copied) if not (ROOT / source).exists()] == []


def test_image_runs_as_an_unprivileged_user_named_by_number() -> None:
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    (user,) = re.findall(r"^USER (.+)$", last_stage, re.M)
    assert int(user) >= 1000


def test_image_starts_the_configuration_it_carries() -> None:
    command = re.findall(r"^CMD (\[.+\])$", DOCKERFILE, re.M)[-1]
    assert f"COPY docker/worker.toml {ast.literal_eval(command)[-1]}" in DOCKERFILE
