"""The published set-ups are whole: compose, Prometheus, dashboard, Kubernetes, systemd, image."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tritserve.settings import Settings

DEPLOY = Path(__file__).parents[3] / "deploy"
DOCKER = Path(__file__).parents[3] / "docker"


@pytest.fixture
def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "tritserve.json").read_text())
    return loaded


@pytest.fixture
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def _panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def _expressions(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in _panels(dashboard):
        for target in panel["targets"]:
            yield target["expr"]


def test_every_panel_explains_itself(dashboard: dict[str, Any]) -> None:
    for panel in _panels(dashboard):
        assert panel["title"], panel["id"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        assert panel["targets"], panel["title"]


def test_panel_ids_are_unique_and_nothing_overlaps(dashboard: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_metric_of_the_dashboard_is_exported(dashboard: dict[str, Any]) -> None:
    telemetry = (Path(__file__).parents[3] / "server" / "tritserve" / "telemetry.py").read_text()
    named = {name for text in _expressions(dashboard) for name in re.findall(r"\btritserve_(\w+)", text)}
    assert named
    for name in named:
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        stem = base.removesuffix("_total")  # the client library adds it to counters
        assert re.search(rf'"(tritserve_)?({re.escape(base)}|{re.escape(stem)})"', telemetry), name


def test_every_file_that_compose_mounts_exists(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), (name, source)
            else:
                assert source in compose["volumes"], (name, source)


def test_compose_publishes_on_loopback_only_and_drops_privileges(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"tritserve", "prometheus", "grafana"}
    for name, service in compose["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
    assert compose["services"]["tritserve"]["read_only"] is True


def test_prometheus_scrapes_the_service_of_compose(compose: dict[str, Any]) -> None:
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    targets = [
        target for job in config["scrape_configs"] for each in job["static_configs"] for target in each["targets"]
    ]
    assert targets == ["tritserve:8000"]
    # The server checks Host; the name it is scraped by must be one it knows.
    assert compose["services"]["tritserve"]["environment"]["TRITSERVE_ALLOWED_HOSTS"] == "tritserve"


def test_grafana_is_provisioned_with_datasource_and_dashboards() -> None:
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"][0]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/tritserve.yaml").read_text())["providers"][0]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"


def test_pod_meets_the_restricted_standard() -> None:
    documents = {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes/tritserve.yaml").read_text())}
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for volume in pod["volumes"]:
        assert set(volume) - {"name"} <= allowed
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
        assert container["livenessProbe"]["httpGet"]["path"] == "/health"


def test_every_variable_in_the_set_ups_is_a_setting() -> None:
    texts = [path.read_text() for folder in (DEPLOY, DOCKER) for path in folder.rglob("*") if path.is_file()]
    named = set(re.findall(r"TRITSERVE_([A-Z_]+)", "\n".join(texts))) - {"CONFIG", "IMAGE", "MEMORY"}
    assert named
    assert {name.lower() for name in named} <= set(Settings.model_fields)


def test_locks_hold_hashes_and_no_address() -> None:
    for name in ("requirements.lock", "build-requirements.lock"):
        text = (DOCKER / name).read_text()
        assert "://" not in text
        for entry in re.split(r"\n(?=[a-z])", text.strip()):
            assert re.match(r"[a-z0-9._-]+==\S+", entry), entry
            assert "--hash=sha256:" in entry, entry


def test_lock_covers_every_dependency() -> None:
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())
    for lock, wanted in (
        ("requirements.lock", project["project"]["dependencies"]),
        ("build-requirements.lock", project["build-system"]["requires"]),
    ):
        locked = set(re.findall(r"^([a-z0-9._-]+)==", (DOCKER / lock).read_text(), re.MULTILINE))
        names = {re.split(r"[^A-Za-z0-9._-]", each)[0].lower().replace("_", "-") for each in wanted}
        assert names <= locked, names - locked


def test_final_image_has_a_numeric_user_a_probe_and_no_added_archives() -> None:
    stages = (DOCKER / "Dockerfile").read_text().split("\nFROM ")
    final = stages[-1]
    assert "USER 10001:10001" in final
    assert "HEALTHCHECK" in final
    assert "apt-get" not in final
    assert all(not stage.startswith("ADD") and "\nADD " not in stage for stage in stages)
    for install in re.findall(r"pip install[^&]*", stages[1]):
        assert "--no-index" in install or {"--require-hashes", "--only-binary"} <= set(install.split()), install
