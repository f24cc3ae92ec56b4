"""Grafana is started with the store of the flow, for this machine alone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.settings import Settings
from grafana.notifications import CONTACT_POINT
from grafana.start import StartError, grafana_variables, source_variables
from grafana.versions import IMAGE
from tests.support.grafana_provisioning import PROVISIONING, faults
from tests.support.paths import ROOT


def test_grafana_does_not_update_its_plugins(tmp_path: Path) -> None:
    """By default it updates plugins when it starts, and loses those that it cannot write or download."""
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]
    for environment in (grafana_variables(tmp_path, tmp_path), service["environment"]):
        assert environment["GF_PLUGINS_PREINSTALL_AUTO_UPDATE"] == "false"
    assert not service.get("read_only")
    assert service["image"] == IMAGE


def test_the_data_source_is_the_store_of_the_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PAIRFLOW_")]:
        monkeypatch.delenv(name)
    here = source_variables(Settings(http_port=8200))
    assert (here["CLICKHOUSE_HOST"], here["CLICKHOUSE_PORT"]) == ("127.0.0.1", "8200")
    monkeypatch.setenv("PAIRFLOW_CLICKHOUSE", "clickhouses://me:p%40s@db.example.org/pairs")
    there = source_variables(Settings())
    assert there == {
        "CLICKHOUSE_HOST": "db.example.org",
        "CLICKHOUSE_PORT": "8443",
        "CLICKHOUSE_USER": "me",
        "CLICKHOUSE_PASSWORD": "p@s",
        "CLICKHOUSE_DATABASE": "pairs",
        "CLICKHOUSE_SECURE": "true",
    }
    monkeypatch.delenv("PAIRFLOW_CLICKHOUSE")
    with pytest.raises(StartError, match="PAIRFLOW_HTTP_PORT"):
        source_variables(Settings(http_port=0))


def test_every_variable_of_the_provisioning_is_set_by_the_start(tmp_path: Path) -> None:
    text = "".join(path.read_text() for path in PROVISIONING.glob("[!a]*/*.yaml"))
    named = set(re.findall(r"\$\{(\w+)\}", text))
    assert named <= set(grafana_variables(tmp_path, tmp_path) | source_variables(Settings()))
    assert "CLICKHOUSE_PASSWORD" in named


def _start(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {"PATH": str(folder / "bin"), "PYTHONPATH": str(ROOT), "GF_SERVER_HTTP_PORT": "39871"}
    kept["PAIRFLOW_HTTP_PORT"] = "39872"
    return subprocess.run(
        [sys.executable, "-m", "grafana.start"],
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_without_a_grafana_one_line_says_what_to_install(tmp_path: Path) -> None:
    done = _start(tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "install Grafana" in done.stderr
    assert "GRAFANA_HOME" in _start(tmp_path, GRAFANA_HOME=str(tmp_path)).stderr


def test_a_grafana_on_the_path_is_started_for_this_machine_alone(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "defaults.ini").touch()
    (tmp_path / "grafana-data" / "plugins" / "grafana-clickhouse-datasource").mkdir(parents=True)
    program = tmp_path / "bin" / "grafana"
    program.write_text(f"#!{shutil.which('sh')}\necho $0 $*\n{shutil.which('env')}\n")
    program.chmod(0o755)
    done = _start(tmp_path, ALERT_WEBHOOK_URL="http://127.0.0.1:9/", PROMETHEUS_URL="http://127.0.0.1:9091")
    assert done.returncode == 0, done.stderr
    command, *lines = done.stdout.splitlines()
    assert command == f"{program} server --homepath {tmp_path}"
    environment = dict(line.split("=", 1) for line in lines if "=" in line)
    assert environment["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["PROMETHEUS_URL"] == "http://127.0.0.1:9091"
    password = environment["GF_SECURITY_ADMIN_PASSWORD"]
    assert len(password) >= 16
    assert password in done.stderr
    assert "alerts go to: webhook" in done.stderr
    assert "no store answers" in done.stderr
    assert faults(Path(environment["GF_PATHS_PROVISIONING"]), environment) == []
    assert (tmp_path / "grafana-data" / "provisioning" / "plugins").is_dir()
    (tmp_path / "grafana-data" / "grafana.db").touch()  # a second start does not change the password
    assert "GF_SECURITY_ADMIN_PASSWORD" not in _start(tmp_path).stdout
    assert CONTACT_POINT == "pairflow"


def test_without_an_installed_grafana_the_pinned_image_is_started(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.write_text(f"#!{shutil.which('sh')}\necho $*\n")
    docker.chmod(0o755)
    done = _start(tmp_path, SLACK_WEBHOOK_URL="http://127.0.0.1:9/secret")
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert (words[0], words[-1]) == ("run", IMAGE)
    assert "--network host" in done.stdout
    assert {"GF_SERVER_HTTP_ADDR", "CLICKHOUSE_PASSWORD", "SLACK_WEBHOOK_URL", "DASHBOARDS"} <= set(words)
    assert "secret" not in done.stdout
