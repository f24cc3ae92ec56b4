"""The files of a server deployment, as far as they can be checked where no container runs."""

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

from connectors.clickhouse import schema
from flows.settings import Settings, load_settings
from grafana.notifications import CHANNELS
from grafana.start import source_variables
from grafana.versions import IMAGE, PLUGIN, PLUGIN_VERSION
from tests.support.paths import ROOT
from tests.support.processes import finish, running

USERS = ROOT / "clickhouse" / "users.d" / "pairflow.xml"
CONFIG = ROOT / "clickhouse" / "config.d" / "pairflow.xml"
VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?+])([^}]*))?\}")


def refuse_twice(node: yaml.Node) -> None:
    """Refuse a key that is there twice, of which YAML would silently keep the last."""
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        assert len(set(keys)) == len(keys), f"a key is there twice, from line {node.start_mark.line + 1}"
        for _, value in node.value:
            refuse_twice(value)
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            refuse_twice(each)


def load(file: Path) -> Any:
    node = yaml.compose(file.read_text())
    assert node is not None
    refuse_twice(node)
    return yaml.safe_load(file.read_text())


COMPOSE = load(ROOT / "docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LASTING = ("clickhouse", "pipeline", "prometheus", "grafana")


def env_example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    pairs = [line.split("=", 1) for line in lines if line and not line.startswith("#")]
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def interpolated(text: str, env: dict[str, str]) -> str:
    """Fill in variables as the Compose specification has it."""

    def value(match: re.Match[str]) -> str:
        name, rule, other = match.groups()
        found = env.get(name, "")
        if rule == ":?":
            assert found, f"{name}: {other}"
        return {":-": found or other, ":+": other if found else ""}.get(rule, found)

    return VARIABLE.sub(value, text)


def environment(service: str, **env: str) -> dict[str, str]:
    env = env_example() | dict.fromkeys(required(), "x1") | env
    return {name: interpolated(value, env) for name, value in SERVICES[service]["environment"].items()}


def required() -> set[str]:
    text = (ROOT / "docker-compose.yml").read_text()
    return {name for name, rule, _ in VARIABLE.findall(text) if rule == ":?"}


def mounts() -> list[tuple[str, str, str]]:
    """Every mount: service, source, target."""
    found = []
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source, target = volume.split(":")[:2]
            found.append((name, source, target))
    return found


def test_keys_of_services_are_those_of_the_compose_specification() -> None:
    known = {
        "build",
        "cap_add",
        "cap_drop",
        "command",
        "depends_on",
        "entrypoint",
        "environment",
        "healthcheck",
    }
    known |= {"image", "logging", "network_mode", "ports", "restart", "security_opt", "stop_grace_period"}
    known |= {"ulimits", "volumes"}
    assert {key for key in COMPOSE if not key.startswith("x-")} == {"name", "services", "volumes"}
    for name, service in SERVICES.items():
        assert set(service) <= known, name
        assert set(service.get("healthcheck", {})) <= {
            "test",
            "interval",
            "timeout",
            "retries",
            "start_period",
        }
        assert all(isinstance(value, str) for value in service.get("environment", {}).values()), (
            f"{name}: a number or truth value without quotes is not what it looks like"
        )


def test_images_are_pinned() -> None:
    images = {service["image"] for service in SERVICES.values()}
    assert all(re.fullmatch(r"[\w./-]+:(v?\d+\.\d+[\w.-]*|local)", image) for image in images), images
    assert all("build" in service for service in SERVICES.values() if service["image"].endswith(":local"))
    (base,) = re.findall(r"^FROM (\S+)$", (ROOT / "Dockerfile").read_text(), re.M)
    assert re.fullmatch(r"python:3\.12\.\d+-slim-\w+", base)


def test_clickhouse_is_the_version_that_the_schema_is_tested_with() -> None:
    from importlib.metadata import version

    embedded = version("chdb-core").split(".")[:2]
    assert SERVICES["clickhouse"]["image"].startswith(f"clickhouse/clickhouse-server:{'.'.join(embedded)}")


def test_grafana_and_its_plugin_are_those_of_make_grafana() -> None:
    assert SERVICES["grafana"]["image"] == IMAGE
    assert SERVICES["grafana"]["environment"]["GF_PLUGINS_PREINSTALL_SYNC"] == f"{PLUGIN}@{PLUGIN_VERSION}"


def test_every_lasting_service_is_watched_started_again_and_limited_in_its_logs() -> None:
    for name in LASTING:
        service = SERVICES[name]
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert service["logging"]["options"]["max-size"]
    assert set(SERVICES) - set(LASTING) == {"provisioning"}
    limits = SERVICES["clickhouse"]["ulimits"]["nofile"]
    assert limits["soft"] == limits["hard"] >= 262144


def test_whoever_waits_for_a_service_waits_for_something_it_says() -> None:
    for service in SERVICES.values():
        for other, wait in service.get("depends_on", {}).items():
            ends = wait["condition"] == "service_completed_successfully"
            assert ends == (other not in LASTING)
            assert ends or (wait["condition"] == "service_healthy" and "healthcheck" in SERVICES[other])


def test_nothing_listens_beyond_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert sorted(ports) == [f"127.0.0.1:{port}:{port}" for port in (3000, 8123, 9090)]


def test_volumes_are_declared_and_used() -> None:
    named = {source for _, source, _ in mounts() if not source.startswith(".")}
    assert named == set(COMPOSE["volumes"])


def test_what_is_mounted_is_there_and_hides_no_folder_of_an_image() -> None:
    for _, source, target in mounts():
        if not source.startswith("."):
            continue
        assert (ROOT / source).exists(), source
        if target != "/var/lib/grafana/dashboards":  # a folder that the image has not
            assert (ROOT / source).is_file(), f"{source}: a folder hides the image's own files"
            assert Path(source).suffix == Path(target).suffix


def test_no_secret_is_written_down() -> None:
    secret = re.compile(r"PASSWORD|TOKEN|SECRET|KEY|WEBHOOK_URL")
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if secret.search(variable):
                assert VARIABLE.fullmatch(value), f"{name}: {variable} is written down"
    for variable, value in env_example().items():
        assert not (secret.search(variable) and value), f"{variable} has a default"
    for file in (USERS, CONFIG):
        for element in ET.parse(file).iter():
            if "password" in element.tag or "secret" in element.tag:
                assert not (element.text or "").strip()
                assert element.get("from_env") in required()


def test_every_password_must_be_set() -> None:
    assert required() == {
        name for name in env_example() if re.match(r"(CLICKHOUSE|GRAFANA)_\w*PASSWORD", name)
    }
    with pytest.raises(AssertionError, match=r"write one into \.env"):
        interpolated(SERVICES["clickhouse"]["environment"]["CLICKHOUSE_READER_PASSWORD"], {})


def test_variables_are_those_of_the_example_and_the_other_way_round() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert {name for name, _, _ in VARIABLE.findall(text)} == set(env_example())
    assert text.count("$") == len(VARIABLE.findall(text)), "a $ of another form is eaten by Compose"


def test_the_flow_understands_its_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PAIRFLOW_")]:
        monkeypatch.delenv(name)
    given = environment("pipeline")
    assert set(given) <= {f"PAIRFLOW_{name.upper()}" for name in Settings.model_fields}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.dsn == "clickhouse://pairflow_writer:x1@clickhouse:8123/pairflow"
    assert (settings.metrics_host, settings.metrics_port) == ("0.0.0.0", 9464)
    assert settings.symbols == tuple(env_example()["PAIRFLOW_SYMBOLS"].split(","))
    assert "x1" not in str(settings.public())


def test_grafana_gets_every_variable_that_its_provisioning_names() -> None:
    given = environment("grafana")
    texts = [file.read_text() for file in (ROOT / "grafana" / "provisioning").rglob("*.yaml")]
    named = {name for text in texts for name in re.findall(r"(?<!\$)\$\{([A-Z_]+)\}", text)}
    assert "CLICKHOUSE_HOST" in named
    assert named <= set(given)
    assert set(source_variables(Settings())) <= set(given)
    home = given["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "grafana" / "dashboards" / Path(home).name).is_file()
    assert Path(home).parent == Path(given["DASHBOARDS"])


def test_channels_of_alerts_reach_both_that_need_them() -> None:
    named = {name for channel in CHANNELS.values() for name in (*channel.variables, *channel.optional)}
    for service in ("grafana", "provisioning"):
        given = environment(service, **dict.fromkeys(named, "set"))
        assert {name for name in named if given.get(name) == "set"} == named
    assert environment("grafana")["GF_SMTP_ENABLED"] == ""
    assert environment("grafana", GF_SMTP_HOST="mail:25")["GF_SMTP_ENABLED"] == "true"
    written = SERVICES["provisioning"]["entrypoint"][-1]
    assert written == environment("grafana")["GF_PATHS_PROVISIONING"]


def test_prometheus_asks_ports_that_are_served() -> None:
    config = load(ROOT / "grafana" / "prometheus.yml")
    targets = {t for job in config["scrape_configs"] for s in job["static_configs"] for t in s["targets"]}
    assert {target.split(":")[0] for target in targets} <= set(SERVICES)
    served = ET.parse(CONFIG).findtext("prometheus/port")
    assert targets == {f"pipeline:{environment('pipeline')['PAIRFLOW_METRICS_PORT']}", f"clickhouse:{served}"}
    sources = load(ROOT / "grafana" / "provisioning" / "datasources" / "sources.yaml")["datasources"]
    (interval,) = (s["jsonData"]["timeInterval"] for s in sources if s["type"] == "prometheus")
    assert interval == config["global"]["scrape_interval"]


def test_the_image_has_what_the_flow_needs_and_nothing_secret() -> None:
    text = (ROOT / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (?:--chown=\S+ )?(\S+) \S+$", text, re.M)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)
    assert all((ROOT / name).exists() for name in copied)
    assert {"flows", "connectors", "kernels", "clickhouse"} <= set(copied)
    assert "--require-hashes" in text
    assert re.search(r"^USER (?!root)\w+$", text, re.M)
    user, compiled = text.index("USER "), text.index("RUN python -m flows")
    assert user < compiled, "the cache is of the user that runs"
    for package in ("kernels", "connectors", "flows"):
        assert text.index(f"COPY --chown=pairflow:pairflow {package} ") < compiled


def test_the_entry_point_makes_the_recovery_state_once(tmp_path: Path) -> None:
    (line,) = re.findall(r"^ENTRYPOINT (.*)$", (ROOT / "Dockerfile").read_text(), re.M)
    command = [part.replace("/state", str(tmp_path / "state")) for part in json.loads(line)]
    assert re.search(r"; exec python -m bytewax\.run flows\.pairs -r \S+ -s 1 -b 0$", command[-1])
    (tmp_path / "state").mkdir()
    # What would run the flow is replaced by what shows that it has taken the place of the shell.
    shown = "exec python -c 'import os; print(os.getpid())'"
    command[-1] = re.sub(r"exec python -m bytewax\.run.*", shown, command[-1])
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    states = []
    for _ in range(2):
        with running(*command, env=env, piped=True) as process:
            assert finish(process) == f"{process.pid}\n"
        states.append([file.stat().st_mtime_ns for file in sorted((tmp_path / "state").iterdir())])
    assert len(states[0]) == 1
    assert states[0] == states[1]


def constraints() -> dict[str, dict[str, str]]:
    found = ET.parse(USERS).find("profiles/pairflow_reader/constraints")
    assert found is not None
    return {each.tag: {rule.tag: rule.text or "" for rule in each} for each in found}


def test_grafana_may_send_its_time_limit() -> None:
    rules = constraints()["max_execution_time"]
    assert "changeable_in_readonly" in rules
    sources = load(ROOT / "grafana" / "provisioning" / "datasources" / "sources.yaml")["datasources"]
    (clickhouse,) = (s["jsonData"] for s in sources if s["type"] == PLUGIN)
    assert int(rules["min"]) <= int(clickhouse["queryTimeout"]) + 4 <= int(rules["max"])
    # Else the server refuses to load it.
    improved = "access_control_improvements/settings_constraints_replace_previous"
    assert ET.parse(CONFIG).findtext(improved) == "true"


def test_no_user_has_more_than_it_needs() -> None:
    users = ET.parse(USERS).find("users")
    assert users is not None
    default, *others = users
    assert (default.tag, default.attrib) == ("default", {"remove": "remove"})
    assert [user.tag for user in others] == ["pairflow_writer", "pairflow_reader"]
    for user in others:
        rights = [grant.text or "" for grant in user.iter("query")]
        text = " ".join(rights)
        assert "ALL" not in text
        assert "GRANT OPTION" not in text
        assert all(re.search(r" ON (pairflow\.\*|\w*MergeTree)$", right) for right in rights)
        assert user.find("access_management") is None
    assert SERVICES["pipeline"]["environment"]["PAIRFLOW_CLICKHOUSE"].startswith(
        "clickhouse://pairflow_writer:"
    )
    assert SERVICES["grafana"]["environment"]["CLICKHOUSE_USER"] == "pairflow_reader"


class Engine:
    """ClickHouse's embedded engine, with this deployment's users, as one of them.

    It knows nobody but `default`, so a user takes that name. It does not read `access_control_improvements`,
    and so refuses `changeable_in_readonly`, which is left out.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "users.d").mkdir()
        (folder / "users.xml").write_text(
            "<clickhouse><profiles><default/></profiles><quotas><default/></quotas><users><default><password/>"
            "<networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>"
            "</default></users></clickhouse>"
        )
        config = ET.parse(CONFIG)
        ET.SubElement(config.getroot(), "users_config").text = str(folder / "users.xml")
        config.write(folder / "config.xml")

    def run(self, user: str, statements: list[str]) -> list[str]:
        """Run statements.

        :arg user: a user, or nothing for one who may do everything.
        :returns: an answer, or the first line of an error, each.
        """
        tree = ET.parse(USERS)
        users = tree.find("users")
        assert users is not None
        users.remove(users[0])
        for each in users:
            if each.tag == user:
                each.tag = "default"
                each.set("replace", "replace")
                password = each.find("password")
                assert password is not None
                each.remove(password)
                ET.SubElement(each, "password")
        for parent in list(tree.iter()):
            for child in parent.findall("changeable_in_readonly"):
                parent.remove(child)
        tree.write(self._folder / "users.d" / "pairflow.xml")
        code = (
            "import chdb, json, sys\n"
            "folder, statements = json.load(sys.stdin)\n"
            "c = chdb.connect(f'{folder}/db?config-file={folder}/config.xml')\n"
            "def answer(sql):\n"
            "    try: return c.query(sql, 'TSV').bytes().decode()\n"
            "    except Exception as ex: return str(ex)\n"
            "print(json.dumps([answer(each) for each in statements]))\n"
        )
        given = json.dumps([str(self._folder), statements])
        env = os.environ | dict.fromkeys(required(), "x1")
        done = subprocess.run(
            [sys.executable, "-c", code], input=given, capture_output=True, text=True, env=env, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        answers: list[str] = json.loads(done.stdout)
        assert len(answers) == len(statements)
        return answers


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(tmp_path_factory.mktemp("engine"))


SOURCE = [each.text for each in schema.load().statements]


def test_the_writer_may_make_and_fill_the_schema_and_no_more(engine: Engine) -> None:
    columns = "SELECT count() > 0 FROM system.columns WHERE table = 'stored_bars'"
    made = [
        "EXISTS DATABASE pairflow",
        "CREATE DATABASE IF NOT EXISTS pairflow",
        "USE pairflow",
        *SOURCE,
        *SOURCE,  # as when an upgrade was cut off
        # What an upgrade does to tables that differ from their declaration.
        columns,
        "ALTER TABLE stored_bars ADD COLUMN IF NOT EXISTS a Int8 DEFAULT 1 COMMENT 'x' CODEC(LZ4) AFTER low,"
        " MODIFY COLUMN low Float64 COMMENT 'x' CODEC(LZ4), COMMENT COLUMN high 'x', MODIFY COMMENT 'x'",
        "ALTER TABLE stored_bars MODIFY COLUMN a REMOVE DEFAULT, MODIFY COLUMN low REMOVE CODEC",
        "ALTER TABLE alert_rules DROP CONSTRAINT IF EXISTS at_most_an_hour,"
        " ADD CONSTRAINT IF NOT EXISTS at_most_an_hour CHECK for_seconds <= 60",
        "ALTER TABLE fill_latest_signals MODIFY QUERY SELECT * FROM stored_signals LIMIT 1",
        "INSERT INTO stored_trades (market, symbol, id, time) SELECT 'spot', 'A', 1, now64(6)",
        "INSERT INTO stored_pair_metrics (market, pair, time) SELECT 'spot', 'B/A', now64(6)",
        "INSERT INTO runs (source) SELECT 'binance'",
        "SELECT * FROM pair_ranking",
        "SELECT * FROM api_status",
        "SELECT engine FROM system.tables WHERE database = currentDatabase() AND name = 'runs'",
    ]
    answers = engine.run("pairflow_writer", made)
    assert [answer for answer in answers if "DB::Exception" in answer] == []
    assert answers[-1] == "MergeTree\n"
    assert answers[made.index(columns)] == "1\n"
    refused = [
        "CREATE DATABASE other",
        "CREATE TABLE pairflow.f (a Int8) ENGINE = URL('http://127.0.0.1/', 'CSV')",
        "CREATE USER somebody",
        "GRANT SELECT ON *.* TO pairflow_reader",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1/', 'LineAsString')",
        "DROP TABLE pairflow.stored_trades",
        "DROP DATABASE pairflow",
    ]
    for statement, answer in zip(refused, engine.run("pairflow_writer", refused), strict=True):
        assert "ACCESS_DENIED" in answer, f"{statement}: {answer}"


def test_the_reader_may_ask_everything_within_limits_and_change_nothing(engine: Engine) -> None:
    made = ["CREATE DATABASE IF NOT EXISTS pairflow", "USE pairflow", *SOURCE]
    made += [
        "INSERT INTO stored_trades (market, symbol, id, time) SELECT 'spot', 'A', number, 0 FROM numbers(9)"
    ]
    assert "DB::Exception" not in "".join(engine.run("", made))
    views = re.findall(r"CREATE OR REPLACE VIEW (\w+)", "\0".join(SOURCE))
    asked = [
        f"SELECT * FROM pairflow.{view}"
        for view in views
        if view == "api_status" or not view.startswith("api_")
    ]
    asked += ["SELECT count() > 0 FROM pairflow.trades", "SELECT getSetting('max_execution_time')"]
    answers = engine.run("pairflow_reader", asked)
    assert [answer for answer in answers if "DB::Exception" in answer] == []
    assert answers[-2:] == ["1\n", "30\n"]
    refused = {
        "INSERT INTO pairflow.runs (source) SELECT 'x'": "READONLY|ACCESS_DENIED",
        "ALTER TABLE pairflow.runs DELETE WHERE 1": "READONLY|ACCESS_DENIED",
        "CREATE TABLE pairflow.t (a Int8) ENGINE = MergeTree ORDER BY a": "READONLY|ACCESS_DENIED",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')": "READONLY|ACCESS_DENIED",
        "SELECT * FROM url('http://127.0.0.1/', 'LineAsString')": "READONLY|ACCESS_DENIED",
        "SELECT * FROM remote('127.0.0.1', system.one)": "READONLY|ACCESS_DENIED",
        "SELECT * FROM system.users": "ACCESS_DENIED",
        "SET readonly = 0": "READONLY",
        "SET max_memory_usage = 0": "READONLY",
        "SELECT number FROM numbers(3000000)": "TOO_MANY_ROWS_OR_BYTES",
    }
    for (statement, error), answer in zip(
        refused.items(), engine.run("pairflow_reader", list(refused)), strict=True
    ):
        assert re.search(error, answer), f"{statement}: {answer[:300]}"


def test_what_a_reader_may_change_are_settings_of_clickhouse(engine: Engine) -> None:
    changeable = [name for name, rules in constraints().items() if "changeable_in_readonly" in rules]
    assert "additional_table_filters" in changeable, "ad-hoc filters of a dashboard"
    names = ", ".join(f"'{name}'" for name in changeable)
    (count,) = engine.run("", [f"SELECT count() FROM system.settings WHERE name IN ({names})"])
    assert int(count) == len(changeable)
