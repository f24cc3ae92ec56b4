"""The committed dashboards with their panels, and their variables as Grafana selects them."""

import json
from collections.abc import Iterator

from grafana.build import FOLDER
from tests.support.grafana_data_source import interpolate
from tests.support.grafana_schema import Json
from tests.support.served import Served

FILES = sorted(FOLDER.rglob("*.json"))
DASHBOARDS: dict[str, Json] = {file.stem: json.loads(file.read_text()) for file in FILES}


def panels_of(dashboard: Json) -> Iterator[Json]:
    """Return all panels, with those below a closed headline."""
    for panel in dashboard.get("panels", []):
        yield panel
        yield from panel.get("panels", [])


PANELS = [(name, panel) for name, dashboard in DASHBOARDS.items() for panel in panels_of(dashboard)]


def choose(store: Served, dashboard: Json) -> dict[str, str]:
    """Return the values of the variables that Grafana selects when the dashboard opens.

    :arg store: which the dashboard shows.
    """
    values: dict[str, str] = {}
    for variable in dashboard["templating"]["list"]:
        answer = store.ask(interpolate(variable["query"]["rawSql"], values))
        found = [str(row[0]) for row in answer.rows]
        assert found, variable["name"]
        assert all(found), variable["name"]
        current = (variable.get("current") or {}).get("value")
        values[variable["name"]] = current if current in found else found[0]
    return values
