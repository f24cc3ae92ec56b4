"""Write the dashboards: ``python -m grafana.build`` fills ``grafana/dashboards/``.

Grafana loads these files. Edit ``grafana/pages`` (the panels) and ``grafana/queries`` (the SQL).
"""

import json
from pathlib import Path

from grafana.pages import alerts, market, pair, pipeline
from grafana.panels import Json

FOLDER = Path(__file__).parent / "dashboards"


def dashboards() -> dict[str, Json]:
    """Return the dashboards by the names of their files."""
    return {
        "pair.json": pair.dashboard(),
        "market.json": market.dashboard(),
        "pipeline.json": pipeline.dashboard(),
        "alerts.json": alerts.dashboard(),
    }


def as_text(dashboard: Json) -> str:
    """Return a dashboard as the text of its file."""
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


def _main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, dashboard in dashboards().items():
        (FOLDER / name).write_text(as_text(dashboard))


if __name__ == "__main__":
    _main()
