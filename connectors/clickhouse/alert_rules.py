"""An alert rule of a user: what it may say, for settings, REST and the table ``alert_rules`` alike.

```python
from connectors.clickhouse.alert_rules import AlertRule

rule = AlertRule(pair="ETHUSDT/BTCUSDT", metric="correlation", condition="<", threshold=0.5)
```

The view ``alert_states`` judges the rules. ``clickhouse/alerts.sql`` declares the table; a test holds its
columns, defaults and checks equal to the model.
"""

from __future__ import annotations

import difflib
import json
import uuid
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from kernels.records import STATISTICS

CONDITIONS = (">", ">=", "<", "<=", "abs >", "abs >=", "abs <", "abs <=")
"""How a rule compares a metric, or its magnitude, with the threshold."""

LONGEST_SECONDS = 3600
"""A condition has to hold no longer than this, as that much history is read to judge it."""

_LARGEST_UINT32 = 2**32 - 1

_SETTINGS = uuid.UUID("6a1f6f0e-6c0b-4d6b-9a53-0d6b6f0c3f10")


class AlertRule(BaseModel):
    """An alert rule; a field that is left out has its default, in the table as here.

    Each field's description says what is expected of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    name: str = Field("", description="text, the alert's name")
    pair: str = Field("", description="a pair that is watched, as ETHUSDT/BTCUSDT; left out: every pair")
    timeframe: str = Field("", description="a timeframe of this run, as 1m; left out: every timeframe")
    window: int = Field(
        0,
        ge=0,
        le=_LARGEST_UINT32,
        description="a window of this run, a whole number as 60; left out: every window",
    )
    method: str = Field("", description="a method of this run, as ols; left out: every method")
    metric: Literal[*STATISTICS] = Field("z_score", description=f"one of {', '.join(STATISTICS)}")  # type: ignore[valid-type]
    condition: Literal[*CONDITIONS] = Field("abs >", description=f"one of {', '.join(CONDITIONS)}")  # type: ignore[valid-type]
    threshold: float = Field(2.0, description="a number, in units of the metric, as 2.5")
    for_seconds: int = Field(
        0, ge=0, le=LONGEST_SECONDS, description=f"whole seconds up to {LONGEST_SECONDS}, as 30"
    )
    enabled: bool = Field(True, description="true or false")
    note: str = Field("", description="text")

    @property
    def settings_id(self) -> uuid.UUID:
        """The id of this rule where it comes from settings: the same in each run in which it is the same."""
        return uuid.uuid5(_SETTINGS, json.dumps(self.model_dump(), sort_keys=True))


FIELDS = tuple(AlertRule.model_fields)
"""Names of what a rule may say."""

_SQL_TYPES: dict[object, str] = {int: "UInt32", float: "Float64", bool: "Bool"}

SQL_TYPES = {
    name: _SQL_TYPES.get(field.annotation, "String") for name, field in AlertRule.model_fields.items()
}
"""Types of the fields as parameters of a statement, as ClickHouse names them."""


def fault(name: str, value: object) -> str:
    """Say what is wrong with a field.

    :arg name: Of the field, which may not exist.
    :arg value: What was given.
    :returns: One line: the field, its value and what was expected.
    """
    fields = AlertRule.model_fields
    if name not in fields:
        close = difflib.get_close_matches(name, fields, 1)
        hint = f"did you mean {close[0]}?" if close else f"expected {', '.join(fields)}"
        return f"{name}: no such field; {hint}"
    return f"{name}={value!r}: expected {fields[name].description}"
