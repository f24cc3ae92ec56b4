"""The description of the REST routes: an OpenAPI document."""

from __future__ import annotations

from typing import Any

from connectors.clickhouse.alert_rules import AlertRule
from connectors.clickhouse.server.api import FORMATS, PREFIX, ROUTES, Parameter, Route


def openapi() -> dict[str, Any]:
    """Describe the routes.

    :returns: An OpenAPI 3.1 document.
    """
    row = {"type": "object"}
    error = {"description": "What was wrong, in one line.", "content": {"application/json": {}}}
    paths: dict[str, Any] = {}
    for route in ROUTES:
        parameters = [_describe(parameter, route) for parameter in route.parameters]
        form = {"type": "string", "enum": list(FORMATS), "default": "json"}
        parameters.append({"name": "format", "in": "query", "schema": form})
        schema = row if route.one else {"type": "array", "items": row}
        answer = {"description": "Rows.", "content": {"application/json": {"schema": schema}}}
        operation = {
            "summary": route.summary,
            "parameters": parameters,
            "responses": {"200": answer, "400": error, "404": error} if route.parameters else {"200": answer},
        }
        paths[PREFIX + route.path] = {"get": operation}
    properties = {
        name: {key: value for key, value in about.items() if key != "title"}
        for name, about in AlertRule.model_json_schema()["properties"].items()
    }
    paths[f"{PREFIX}/alerts"]["post"] = {
        "summary": "Add an alert rule.",
        "requestBody": {
            "content": {
                "application/json": {
                    "schema": {"type": "object", "properties": properties},
                    "example": {"metric": "z_score", "condition": ">", "threshold": 2.0},
                }
            }
        },
        "responses": {"201": {"description": "The rule, with its id."}, "400": error},
    }
    identifier = {
        "name": "id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "format": "uuid"},
    }
    paths[f"{PREFIX}/alerts/{{id}}"] = {
        "delete": {
            "summary": "Remove an alert rule.",
            "parameters": [identifier],
            "responses": {"204": {"description": "It is removed."}, "404": error},
        }
    }
    return {"openapi": "3.1.0", "info": {"title": "pairflow", "version": "1"}, "paths": paths}


def _describe(parameter: Parameter, route: Route) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer" if parameter.kind == "integer" else "string"}
    if parameter.default and parameter.kind == "integer":
        schema["default"] = int(parameter.default)
    in_path = f"{{{parameter.name}}}" in route.path
    described: dict[str, Any] = {
        "name": parameter.name,
        "in": "path" if in_path else "query",
        "description": parameter.about,
        "schema": schema,
    }
    if in_path:
        described["required"] = True
    return described
