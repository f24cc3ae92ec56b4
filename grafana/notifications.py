"""Where alerts are sent: the channels whose variables are set, as provisioning of Grafana."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

CONTACT_POINT = "pairflow"


class ChannelError(Exception):
    """Only a part of a channel's variables is set."""


class Channel(NamedTuple):
    """A way to send alerts.

    :arg variables: The channel is in use if all of them are set.
    :arg settings: Of Grafana's receiver. A secret stays in its variable: Grafana reads it from there.
    :arg optional: Further settings, by the variable that must be set for them.
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
        # parse_mode None: the text of a rule may contain < and >, which Telegram would refuse as markup.
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

# Grafana needs a receiver even if nothing is sent, and would log an error for each alert that it cannot send.
# So without a channel all notifications are muted, and this receiver is never used.
_UNUSED = {
    "uid": "pairflow-unused",
    "type": "email",
    "disableResolveMessage": False,
    "settings": {"addresses": "unused@localhost"},
}
_ALWAYS = {"name": "always", "time_intervals": [{"times": [{"start_time": "00:00", "end_time": "24:00"}]}]}


def receivers(environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the receivers of the channels that are in use.

    :arg environment: variables; an empty one counts as not set.
    :returns: receivers, as in a provisioning file.
    :raises ChannelError: if only a part of a channel's variables is set.
    """
    found = []
    for kind, channel in CHANNELS.items():
        if not _is_in_use(kind, environment):
            continue
        settings = dict(channel.settings)
        for name, more in channel.optional.items():
            if environment.get(name):
                settings |= more
        if kind == "telegram":
            # Not as a variable: Grafana would convert it to a number and then refuse it. It is no secret.
            settings["chatid"] = environment["TELEGRAM_CHAT_ID"].replace("$", "$$")
        found.append(
            {"uid": f"pairflow-{kind}", "type": kind, "disableResolveMessage": False, "settings": settings}
        )
    return found


def _is_in_use(kind: str, environment: Mapping[str, str]) -> bool:
    variables = CHANNELS[kind].variables
    unset = [name for name in variables if not environment.get(name)]
    # A mail server alone sends no alerts: Grafana uses it for invitations too.
    if len(unset) == len(variables) or "ALERT_EMAIL_TO" in unset:
        return False
    if unset:
        msg = f"{' and '.join(unset)} must be set too, to send alerts by {kind}"
        raise ChannelError(msg)
    return True


def notifications(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the provisioning of the contact point and of the notification policy.

    :arg environment: variables that name the channels.
    :returns: what Grafana reads, as YAML or JSON.
    :raises ChannelError: if only a part of a channel's variables is set.
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
                    # A trader waits for these: they are sent at once, and each pair by itself.
                    route("signal", ["alertname", "pair"], "1s", "10s", "1d"),
                    route("user", ["alertname", "rule", "pair"], "1s", "10s", "1d"),
                    route("pair", ["grafana_folder", "alertname"], "30s", "5m", "12h"),
                    route("pipeline", ["grafana_folder", "alertname"], "10s", "1m", "4h"),
                    *([{"receiver": CONTACT_POINT, **muted}] if muted else []),
                ],
            }
        ],
    }
