"""Start Grafana with this repository's dashboards and alerts, over the store of the running flow.

    python -m grafana.start

It starts an installed Grafana (`grafana` on the PATH, or `GRAFANA_HOME`), or else the pinned image if Docker
runs. The store is the one that `PAIRFLOW_CLICKHOUSE` or `pairflow.toml` names. Alerts are sent to the
channels whose variables are set, see `grafana.notifications.CHANNELS`; without any they are only shown.
Grafana keeps its data in `./grafana-data` and listens on 127.0.0.1:3000. Its own `GF_*` variables override
what is set here.

    python -m grafana.start provision FOLDER

only writes the provisioning for these channels, for a Grafana that is started by something else.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flows.settings import Settings, SettingsError, load_settings
from grafana.notifications import ChannelError, notifications, receivers
from grafana.versions import IMAGE, PLUGIN, PLUGIN_VERSION

ROOT = Path(__file__).parent

_INSTALL = (
    "no Grafana here: install Grafana 12 (https://grafana.com/grafana/download), so that `grafana` is on the"
    " PATH or GRAFANA_HOME names its folder; or start Docker"
)


class StartError(Exception):
    """Grafana cannot be started; the text is one line that says what to do."""


def write_provisioning(folder: Path, environment: Mapping[str, str]) -> None:
    """Write what Grafana reads when it starts.

    :arg folder: is replaced.
    :arg environment: variables that name the channels.
    :raises ChannelError: if only a part of a channel's variables is set.
    """
    text = json.dumps(notifications(environment), indent=2)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "provisioning", folder)
    (folder / "alerting" / "notifications.yaml").write_text(text + "\n")
    for name in ("plugins", "access-control"):  # Grafana logs an error if one is missing
        (folder / name).mkdir(exist_ok=True)


def source_variables(settings: Settings) -> dict[str, str]:
    """Return the variables of the data sources.

    :arg settings: of the flow whose store is shown.
    :returns: the variables that the provisioning names.
    :raises StartError: if the flow does not serve its embedded store.
    """
    dsn = urlsplit(settings.dsn)
    if dsn.scheme == "chdb":
        if not settings.http_port:
            msg = "PAIRFLOW_HTTP_PORT=0: Grafana reads an embedded store through the flow; set it to 8123"
            raise StartError(msg)
        host, port, user, password, database = "127.0.0.1", settings.http_port, "default", "", "pairflow"
    else:
        host, user, password = (
            dsn.hostname or "",
            unquote(dsn.username or "default"),
            unquote(dsn.password or ""),
        )
        port = dsn.port or (8443 if dsn.scheme == "clickhouses" else 8123)
        database = dsn.path.strip("/") or "pairflow"
    return {
        "CLICKHOUSE_HOST": host,
        "CLICKHOUSE_PORT": str(port),
        "CLICKHOUSE_USER": user,
        "CLICKHOUSE_PASSWORD": password,
        "CLICKHOUSE_DATABASE": database,
        "CLICKHOUSE_SECURE": "true" if dsn.scheme == "clickhouses" else "false",
    }


def grafana_variables(data: Path, provisioning: Path) -> dict[str, str]:
    """Return Grafana's own settings: it sends nothing anywhere, and only this machine can reach it.

    :arg data: folder of its data.
    :arg provisioning: folder that `write_provisioning` has written.
    """
    port = os.environ.get("GF_SERVER_HTTP_PORT", "3000")
    home = ROOT / "dashboards" / "market.json"
    return {
        "DASHBOARDS": str(ROOT / "dashboards"),
        "PROMETHEUS_URL": os.environ.get("PROMETHEUS_URL", "http://127.0.0.1:9090"),
        "GF_PATHS_DATA": str(data),
        "GF_PATHS_LOGS": str(data / "log"),
        "GF_PATHS_PROVISIONING": str(provisioning),
        "GF_SERVER_HTTP_ADDR": "127.0.0.1",
        "GF_SERVER_HTTP_PORT": port,
        "GF_SERVER_ROOT_URL": f"http://127.0.0.1:{port}",
        # Refuses web pages that let their own name resolve to this machine.
        "GF_SERVER_DOMAIN": "127.0.0.1",
        "GF_SERVER_ENFORCE_DOMAIN": "true",
        "GF_AUTH_ANONYMOUS_ENABLED": "true",
        "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
        "GF_USERS_ALLOW_SIGN_UP": "false",
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
        "GF_NEWS_NEWS_FEED_ENABLED": "false",
        "GF_SECURITY_DISABLE_GRAVATAR": "true",
        "GF_PLUGINS_PREINSTALL_DISABLED": "true",
        "GF_PLUGINS_PUBLIC_KEY_RETRIEVAL_DISABLED": "true",
        "GF_PLUGINS_PREINSTALL_AUTO_UPDATE": "false",
        # While no flow runs, each rule logs an error every 10 s: a file takes them, not the terminal.
        "GF_LOG_MODE": "file",
        "GF_DASHBOARDS_MIN_REFRESH_INTERVAL": "1s",
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": str(home) if home.exists() else "",
        "GF_SMTP_ENABLED": "true" if os.environ.get("GF_SMTP_HOST") else "false",
        # Provisioned receivers are used only after the first poll.
        "GF_UNIFIED_ALERTING_ALERTMANAGER_CONFIG_POLL_INTERVAL": "10s",
    }


def find_grafana() -> tuple[Path, Path] | None:
    """Return the program and the home folder of an installed Grafana, if there is one.

    :raises StartError: if `GRAFANA_HOME` is not the folder of a Grafana.
    """
    named = os.environ.get("GRAFANA_HOME")
    found = shutil.which("grafana")
    if named and not (Path(named) / "conf" / "defaults.ini").exists():
        msg = f"GRAFANA_HOME={named}: expected the folder of a Grafana, with conf/defaults.ini in it"
        raise StartError(msg)
    program = Path(named, "bin", "grafana") if named else Path(found) if found else None
    if program is None or not program.exists():
        return None
    # Where an archive, a Linux package and Homebrew have it.
    prefix = program.resolve().parents[1]
    homes = [Path(named)] if named else [prefix, Path("/usr/share/grafana"), prefix / "share" / "grafana"]
    for home in homes:
        if (home / "conf" / "defaults.ini").exists():
            return program, home
    msg = f"{program} is there, but not its conf/defaults.ini: set GRAFANA_HOME to the folder that has it"
    raise StartError(msg)


def _plugins(program: Path, home: Path, data: Path) -> Path:
    """Return a folder with the ClickHouse plugin; install the plugin if no folder has it."""
    ours = data / "plugins"
    for folder in (Path(os.environ.get("GF_PATHS_PLUGINS", ours)), ours, home / "data" / "plugins"):
        if (folder / PLUGIN).is_dir():
            return folder
    command = [str(program), "cli", "--homepath", str(home), "--pluginsDir", str(ours), "plugins", "install"]
    done = subprocess.run([*command, PLUGIN, PLUGIN_VERSION], capture_output=True, check=False)
    if done.returncode:
        msg = f"{PLUGIN} {PLUGIN_VERSION} is not installed, and cannot be fetched: unzip it into {ours}"
        raise StartError(msg)
    return ours


def _has_docker() -> bool:
    # Only on Linux a container can share the loopback interface of this machine, where the store listens.
    if sys.platform != "linux" or shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def _docker_command(environment: Mapping[str, str], data: Path) -> list[str]:
    names = [
        name
        for name in environment
        if name.startswith(("GF_", "CLICKHOUSE_", "ALERT_", "TELEGRAM_", "SLACK_"))
    ]
    names += ["DASHBOARDS", "PROMETHEUS_URL"]
    mounts = [f"{ROOT}:{ROOT}:ro", f"{data}:{data}"]
    return [
        *("docker", "run", "--rm", "--interactive", "--network", "host"),
        *("--user", f"{os.getuid()}:{os.getgid()}"),
        *(part for mount in mounts for part in ("--volume", mount)),
        *(part for name in names for part in ("--env", name)),
        IMAGE,
    ]


def _is_answering(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):  # noqa: S310, the address of our own server
            return True
    except OSError:
        return False


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            msg = f"port {port} is in use, perhaps by another Grafana: stop it, or set GF_SERVER_HTTP_PORT"
            raise StartError(msg) from None


def _notes(variables: Mapping[str, str], data: Path, password: str) -> list[str]:
    """Return what the user should know, a line each.

    :arg password: of the administrator, if it was made for this start.
    """
    address = f"http://127.0.0.1:{variables['GF_SERVER_HTTP_PORT']}"
    notes = [f"Grafana: {address} (some 10 s from now); everybody on this machine may look"]
    if password:
        notes.append(f"to change things, sign in: admin, {password} (shown this once)")
    notes.append(f"its log: {data / 'log' / 'grafana.log'}")
    used = [receiver["type"] for receiver in receivers(os.environ)]
    nobody = "nobody; set ALERT_WEBHOOK_URL or another channel, see README"
    notes.append(f"alerts go to: {', '.join(used) or nobody}")
    scheme = "https" if variables["CLICKHOUSE_SECURE"] == "true" else "http"
    store = f"{scheme}://{variables['CLICKHOUSE_HOST']}:{variables['CLICKHOUSE_PORT']}"
    if not _is_answering(f"{store}/ping"):
        notes.append(f"no store answers at {store} yet: start the flow, with make demo or make run")
    return notes


def _main() -> None:
    data = Path.cwd() / "grafana-data"
    provisioning = data / "provisioning"
    variables = grafana_variables(data, provisioning) | source_variables(load_settings())
    variables |= {name: value for name, value in os.environ.items() if name.startswith("GF_")}
    _check_port(int(variables["GF_SERVER_HTTP_PORT"]))
    grafana = find_grafana()
    if grafana is None and not _has_docker():
        raise StartError(_INSTALL)
    is_new = not (data / "grafana.db").exists()
    data.mkdir(exist_ok=True)
    write_provisioning(provisioning, os.environ)
    password = ""
    if is_new and "GF_SECURITY_ADMIN_PASSWORD" not in variables:
        password = variables["GF_SECURITY_ADMIN_PASSWORD"] = secrets.token_urlsafe(12)
    notes = _notes(variables, data, password)
    if grafana is None:
        # The image installs the plugin when it starts, once, and nothing else.
        variables["GF_PLUGINS_PREINSTALL_DISABLED"] = "false"
        variables["GF_PLUGINS_PREINSTALL_SYNC"] = f"{PLUGIN}@{PLUGIN_VERSION}"
        environment = os.environ | variables
        command = _docker_command(environment, data)
    else:
        program, home = grafana
        variables["GF_PATHS_PLUGINS"] = str(_plugins(program, home, data))
        environment = os.environ | variables
        command = [str(program), "server", "--homepath", str(home)]
    print(*notes, sep="\n", file=sys.stderr, flush=True)
    os.execvpe(command[0], command, environment)  # noqa: S606


if __name__ == "__main__":
    try:
        match sys.argv[1:]:
            case []:
                _main()
            case ["provision", folder]:
                write_provisioning(Path(folder), os.environ)
            case _:
                print("expected: python -m grafana.start [provision FOLDER]", file=sys.stderr)
                sys.exit(2)
    except (StartError, ChannelError, SettingsError) as error:
        for line in str(error).splitlines():
            print(f"make grafana: {line}", file=sys.stderr)
        sys.exit(1)
