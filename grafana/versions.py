"""Versions of Grafana and of its ClickHouse plugin that dashboards are written for and that are started."""

GRAFANA = "12.3.3"
IMAGE = f"grafana/grafana:{GRAFANA}"

PLUGIN = "grafana-clickhouse-datasource"
PLUGIN_VERSION = "4.20.0"

DASHBOARD_SCHEMA = 42
"""Version of the dashboard's JSON: that of Grafana 12.3 and 13.2."""
