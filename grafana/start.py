"""Start Grafana on this repository's dashboards and alerts, over the store of the running flow.

    python -m grafana.start

It takes a Grafana that is installed here (`grafana` on the PATH, or `GRAFANA_HOME`), else the pinned image
where Docker runs. The store is the one that `PAIRFLOW_CLICKHOUSE` or `pairflow.toml` names. Alerts go to
the channels whose variables are set, see `CHANNELS`; without any they are only shown. Grafana keeps what it
knows in `./grafana-data`, and listens on 127.0.0.1:3000; its own `GF_*` variables win over what is set here.

    python -m grafana.start provision FOLDER

only writes the provisioning for these channels, for a Grafana that something else starts.
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
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from flows.settings import Settings, SettingsError, load_settings
from grafana.versions import IMAGE, PLUGIN, PLUGIN_VERSION

ROOT = Path(__file__).parent
CONTACT_POINT = "pairflow"

_INSTALL = (
    "no Grafana here: install Grafana 12 (https://grafana.com/grafana/download), so that `grafana` is on the "
    "PATH or GRAFANA_HOME names its folder; or start Docker"
)


class StartError(Exception):
    """What keeps Grafana from starting, in one line that says what to do."""


class Channel(NamedTuple):
    """A way to send alerts.

    :arg variables: All of them set: the channel is in use.
    :arg settings: Of Grafana's receiver. A secret stays in its variable: Grafana reads it from there.
    :arg optional: Settings that are there when their variable is.
    """

    variables: tuple[str, ...]
    settings: dict[str, Any]
    optional: Mapping[str, dict[str, Any]] = MappingProxyType({})


_TEXT = {"title": '{{ template "pairflow.title" . }}', "message": '{{ template "pairflow.message" . }}'}

CHANNELS = {
    "webhook": Channel(
        ("ALERT_WEBHOOK_URL",),
        {"url": "${ALERT_WEBHOOK_URL}", "httpMethod": "POST", **_TEXT},
        {
            "ALERT_WEBHOOK_TOKEN": {
                "authorization_scheme": "Bearer",
                "authorization_credentials": "${ALERT_WEBHOOK_TOKEN}",
            }
        },
    ),
    "telegram": Channel(
        ("TELEGRAM_BOT_TOKEN", "TELEGRAM_CHAT_ID"),
        # parse_mode None: a rule's text may hold < and >, which Telegram would take for markup and refuse.
        {"bottoken": "${TELEGRAM_BOT_TOKEN}", "message": _TEXT["message"], "parse_mode": "None"},
    ),
    "slack": Channel(
        ("SLACK_WEBHOOK_URL",),
        {"url": "${SLACK_WEBHOOK_URL}", "title": _TEXT["title"], "text": _TEXT["message"]},
    ),
    "email": Channel(
        ("ALERT_EMAIL_TO", "GF_SMTP_HOST"),
        {
            "addresses": "${ALERT_EMAIL_TO}",
            "singleEmail": True,
            "subject": _TEXT["title"],
            "message": _TEXT["message"],
        },
    ),
}

# Where nothing is sent, Grafana still wants a receiver, and would log an error for each alert it could not
# send: all notifications are muted then, and this receiver is never asked.
_UNUSED = {
    "uid": "pairflow-unused",
    "type": "email",
    "disableResolveMessage": False,
    "settings": {"addresses": "unused@localhost"},
}
_ALWAYS = {"name": "always", "time_intervals": [{"times": [{"start_time": "00:00", "end_time": "24:00"}]}]}


def receivers(environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the receivers of the channels that are in use.

    :arg environment: variables; an empty one is not set.
    :returns: receivers, as in a provisioning file.
    :raises StartError: when only a part of a channel's variables is set.
    """
    found = []
    for kind, channel in CHANNELS.items():
        unset = [name for name in channel.variables if not environment.get(name)]
        if unset == list(channel.variables) or (kind == "email" and "ALERT_EMAIL_TO" in unset):
            continue
        if unset:
            msg = f"{' and '.join(unset)} must be set too, to send alerts by {kind}"
            raise StartError(msg)
        settings = dict(channel.settings)
        for name, more in channel.optional.items():
            if environment.get(name):
                settings |= more
        if kind == "telegram":
            # Grafana makes a number of a variable that looks like one, and then refuses it; it is no secret.
            settings["chatid"] = environment["TELEGRAM_CHAT_ID"].replace("$", "$$")
        found.append(
            {"uid": f"pairflow-{kind}", "type": kind, "disableResolveMessage": False, "settings": settings}
        )
    return found


def notifications(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the provisioning of contact point and policy tree.

    :arg environment: variables that name the channels.
    :returns: what Grafana reads, as YAML or JSON.
    :raises StartError: when only a part of a channel's variables is set.
    """
    used = receivers(environment)
    muted = {} if used else {"mute_time_intervals": [_ALWAYS["name"]]}

    def route(kind: str, group_by: list[str], wait: str, interval: str, repeat: str) -> dict[str, Any]:
        return {
            "receiver": CONTACT_POINT,
            "object_matchers": [["kind", "=", kind]],
            "group_by": group_by,
            "group_wait": wait,
            "group_interval": interval,
            "repeat_interval": repeat,
            **muted,
        }

    uids = {receiver["uid"] for receiver in used or [_UNUSED]}
    known = [f"pairflow-{kind}" for kind in CHANNELS] + [_UNUSED["uid"]]
    return {
        "apiVersion": 1,
        "contactPoints": [{"orgId": 1, "name": CONTACT_POINT, "receivers": used or [_UNUSED]}],
        "deleteContactPoints": [{"orgId": 1, "uid": uid} for uid in known if uid not in uids],
        "muteTimes": [{"orgId": 1, **_ALWAYS}],
        "policies": [
            {
                "orgId": 1,
                "receiver": CONTACT_POINT,
                "group_by": ["grafana_folder", "alertname"],
                "group_wait": "10s",
                "group_interval": "1m",
                "repeat_interval": "4h",
                "routes": [
                    # What somebody waits for comes at once, each pair by itself.
                    route("signal", ["alertname", "pair"], "1s", "10s", "1d"),
                    route("user", ["alertname", "rule", "pair"], "1s", "10s", "1d"),
                    route("pair", ["grafana_folder", "alertname"], "30s", "5m", "12h"),
                    route("pipeline", ["grafana_folder", "alertname"], "10s", "1m", "4h"),
                    *([{"receiver": CONTACT_POINT, **muted}] if muted else []),
                ],
            }
        ],
    }


def write_provisioning(folder: Path, environment: Mapping[str, str]) -> None:
    """Write what Grafana reads at its start.

    :arg folder: replaced.
    :arg environment: variables that name the channels.
    :raises StartError: when only a part of a channel's variables is set.
    """
    text = json.dumps(notifications(environment), indent=2)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "provisioning", folder)
    (folder / "alerting" / "notifications.yaml").write_text(text + "\n")
    for name in ("plugins", "access-control"):  # else Grafana logs that it cannot read them
        (folder / name).mkdir(exist_ok=True)


def source_variables(settings: Settings) -> dict[str, str]:
    """Return the variables of the data sources.

    :arg settings: of the flow whose store is shown.
    :returns: variables that the provisioning names.
    :raises StartError: when the flow serves its embedded store to nobody.
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
    """Return Grafana's own settings: nothing leaves this machine, and nobody else gets in.

    :arg data: its folder.
    :arg provisioning: written by `write_provisioning`.
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
        # A web page that makes its own name resolve to this machine is sent away.
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
        # While no flow runs, each rule logs errors every 10 s: not into the terminal.
        "GF_LOG_MODE": "file",
        "GF_DASHBOARDS_MIN_REFRESH_INTERVAL": "1s",
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": str(home) if home.exists() else "",
        "GF_SMTP_ENABLED": "true" if os.environ.get("GF_SMTP_HOST") else "false",
        # Provisioned receivers are in force only after the first of these.
        "GF_UNIFIED_ALERTING_ALERTMANAGER_CONFIG_POLL_INTERVAL": "10s",
    }


def find_grafana() -> tuple[Path, Path] | None:
    """Return the program and the home folder of an installed Grafana, if there is one.

    :raises StartError: when `GRAFANA_HOME` is not the folder of a Grafana.
    """
    named = os.environ.get("GRAFANA_HOME")
    found = shutil.which("grafana")
    if named and not (Path(named) / "conf" / "defaults.ini").exists():
        msg = f"GRAFANA_HOME={named}: expected the folder of a Grafana, with conf/defaults.ini in it"
        raise StartError(msg)
    program = Path(named, "bin", "grafana") if named else Path(found) if found else None
    if program is None or not program.exists():
        return None
    # An archive, a package of Linux, Homebrew.
    prefix = program.resolve().parents[1]
    homes = [Path(named)] if named else [prefix, Path("/usr/share/grafana"), prefix / "share" / "grafana"]
    for home in homes:
        if (home / "conf" / "defaults.ini").exists():
            return program, home
    msg = f"{program} is there, but not its conf/defaults.ini: set GRAFANA_HOME to the folder that has it"
    raise StartError(msg)


def _plugins(program: Path, home: Path, data: Path) -> Path:
    """Return a folder that has the ClickHouse plugin; fetch it where none has."""
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
    # Elsewhere than on Linux a container does not share this machine's loopback, where the store is.
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


def _main() -> None:
    data = Path.cwd() / "grafana-data"
    provisioning = data / "provisioning"
    variables = grafana_variables(data, provisioning) | source_variables(load_settings())
    variables |= {name: value for name, value in os.environ.items() if name.startswith("GF_")}
    port = int(variables["GF_SERVER_HTTP_PORT"])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            msg = f"port {port} is in use, perhaps by another Grafana: stop it, or set GF_SERVER_HTTP_PORT"
            raise StartError(msg) from None
    grafana = find_grafana()
    if grafana is None and not _has_docker():
        raise StartError(_INSTALL)
    is_new = not (data / "grafana.db").exists()
    data.mkdir(exist_ok=True)
    write_provisioning(provisioning, os.environ)
    say = [f"Grafana: http://127.0.0.1:{port} (some 10 s from now); everybody on this machine may look"]
    if is_new and "GF_SECURITY_ADMIN_PASSWORD" not in variables:
        variables["GF_SECURITY_ADMIN_PASSWORD"] = secrets.token_urlsafe(12)
        say.append(
            f"to change things, sign in: admin, {variables['GF_SECURITY_ADMIN_PASSWORD']} (shown this once)"
        )
    say.append(f"its log: {data / 'log' / 'grafana.log'}")
    used = [receiver["type"] for receiver in receivers(os.environ)]
    say.append(
        f"alerts go to: {', '.join(used) or 'nobody; set ALERT_WEBHOOK_URL or another channel, see README'}"
    )
    scheme = "https" if variables["CLICKHOUSE_SECURE"] == "true" else "http"
    address = f"{scheme}://{variables['CLICKHOUSE_HOST']}:{variables['CLICKHOUSE_PORT']}"
    if not _is_answering(f"{address}/ping"):
        say.append(f"no store answers at {address} yet: start the flow, with make demo or make run")
    if grafana is None:
        # The image fetches it at its start, once; nothing else.
        variables["GF_PLUGINS_PREINSTALL_DISABLED"] = "false"
        variables["GF_PLUGINS_PREINSTALL_SYNC"] = f"{PLUGIN}@{PLUGIN_VERSION}"
        environment = os.environ | variables
        command = _docker_command(environment, data)
    else:
        program, home = grafana
        variables["GF_PATHS_PLUGINS"] = str(_plugins(program, home, data))
        environment = os.environ | variables
        command = [str(program), "server", "--homepath", str(home)]
    print(*say, sep="\n", file=sys.stderr, flush=True)
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
    except (StartError, SettingsError) as error:
        for line in str(error).splitlines():
            print(f"make grafana: {line}", file=sys.stderr)
        sys.exit(1)
