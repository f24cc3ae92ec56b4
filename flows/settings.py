"""Every setting, typed and validated, from ``PAIRFLOW_*`` variables or ``pairflow.toml``.

A variable wins over the file. In the file the keys are the same, in lower case and without the prefix:

```toml
source = "binance"
symbols = ["BTCUSDT", "ETHUSDT"]
z_entry = 2.5

[[alert_rules]]
pair = "ETHUSDT/BTCUSDT"
metric = "correlation"
condition = "<"
threshold = 0.5
```
"""

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from connectors.clickhouse.alert_rules import AlertRule, fault
from kernels.records import METHODS, MILLISECOND, SECOND, UNITS, timeframe_name

PREFIX = "PAIRFLOW_"
FILE = Path("pairflow.toml")
TICK = "tick"

_DAY = UNITS["d"]
_MOST_SYMBOLS = 1_000
_LONGEST_WINDOW = 100_000


class SettingsError(Exception):
    """Settings that cannot be used: one line per fault, with its name, its value and what was expected."""

    def __init__(self, faults: list[str]) -> None:
        """Init.

        :arg faults: one line each.
        """
        super().__init__("\n".join(faults))
        self.faults = faults


def parse_duration(text: object) -> int:
    """Return a duration such as ``250ms``, ``1s`` or ``5m`` in microseconds.

    :arg text: a whole or decimal number and a unit: us, ms, s, m, h or d.
    :returns: microseconds.
    :raises ValueError: when the text is no duration.
    """
    match = re.fullmatch(rf"(\d+(?:\.\d+)?)\s*({'|'.join(UNITS)})", str(text).strip())
    if match is None:
        msg = f"{text!r} is no duration"
        raise ValueError(msg)
    return round(float(match[1]) * UNITS[match[2]])


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, list) else value


def _upper(value: object) -> object:
    parts = _split(value)
    return tuple(str(part).upper() for part in parts) if isinstance(parts, tuple) else parts


def _timeframe(text: object) -> int:
    if str(text) == TICK:
        return 0
    length = parse_duration(text)
    if length % SECOND or not 0 < length <= _DAY or _DAY % length:
        msg = f"{text!r} is no timeframe"
        raise ValueError(msg)
    return length


def _timeframes(value: object) -> object:
    parts = _split(value)
    return tuple(sorted(_timeframe(part) for part in parts)) if isinstance(parts, tuple) else parts


def _duration(value: object) -> object:
    return 0 if value in (0, "0") else parse_duration(value)


def _speed(value: object) -> object:
    return 0.0 if value == "max" else value


def _lag(value: object) -> object:
    return {"aic": -1, "bic": -2}.get(value, value) if isinstance(value, str) else value


def _rules(value: object) -> object:
    if isinstance(value, str):
        value = json.loads(value)
    return tuple(value) if isinstance(value, list) else value


_Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_upper)]
_Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
_Duration = Annotated[int, BeforeValidator(_duration)]


class Settings(BaseSettings):
    """The settings of one run; each field's description says what is expected of it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        toml_file=FILE,
        validate_default=False,
    )

    source: str = Field(
        "binance",
        description="binance, simulator, recording:PATH[,PATH..] or archive:FROM..TO (days, as 2024-08-01)",
    )
    symbols: _Names = Field(
        ("BTCUSDT", "ETHUSDT"),
        min_length=1,
        max_length=_MOST_SYMBOLS,
        description="different Binance symbols with commas between, as BTCUSDT,ETHUSDT",
    )
    pairs: _Names = Field(
        (),
        description="pairs Y/X of the symbols with commas between, as ETHUSDT/BTCUSDT; empty for all pairs",
    )
    market: Literal["spot", "usdm"] = Field("spot", description="spot or usdm")
    stream: Literal["", "trade", "aggTrade"] = Field(
        "", description="trade or aggTrade; live USD-M futures have aggTrade alone, whose bars are equal"
    )
    timeframes: Annotated[tuple[int, ...], NoDecode, BeforeValidator(_timeframes)] = Field(
        (0, SECOND, 60 * SECOND, 300 * SECOND),
        min_length=1,
        description=("tick, or lengths that divide a day, each a multiple of the shortest, as tick,1s,1m,5m"),
    )
    windows: Annotated[
        tuple[Annotated[int, Field(ge=3, le=_LONGEST_WINDOW)], ...], NoDecode, BeforeValidator(_split)
    ] = Field(
        (60, 300),
        min_length=1,
        description=f"different whole numbers of bars from 3 to {_LONGEST_WINDOW}, as 60,300",
    )
    z_window: int = Field(
        20, ge=2, le=_LONGEST_WINDOW, description=f"a whole number of bars from 2 to {_LONGEST_WINDOW}"
    )
    z_entry: float = Field(2.0, gt=0, allow_inf_nan=False, description="a number above z_exit, as 2.0")
    z_exit: float = Field(0.5, ge=0, allow_inf_nan=False, description="a number from 0 up, as 0.5")
    price_scale: Literal["level", "log"] = Field("level", description="level or log")
    methods: _Words = Field(("ols",), min_length=1, description=f"one or more of {', '.join(METHODS)}")
    kalman_q: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="the variance of a hedge ratio's step, as 1e-9; 0 for a memory as long as the window",
    )
    kalman_r: float = Field(
        1e-6,
        gt=0,
        allow_inf_nan=False,
        description="the variance of the noise, relative to the price squared, as 1e-6",
    )
    adf_lag: Annotated[int, BeforeValidator(_lag)] = Field(
        1, ge=-2, le=100, description="a number of lags from 0 to 100, or aic or bic to choose it"
    )
    allowed_lateness: _Duration = Field(
        250 * MILLISECOND, ge=0, le=60 * SECOND, description="a duration from 0 to 60s, as 250ms"
    )
    clickhouse: SecretStr = Field(
        SecretStr(""),
        description="chdb:///FOLDER or clickhouse://USER:PASSWORD@HOST:8123/DATABASE",
    )
    clickhouse_cluster: str = Field(
        "",
        pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$",
        description="the name of a cluster of ClickHouse servers, in letters, digits and _, as events",
    )
    store_trades: bool = Field(True, description="true or false")
    flush_interval: _Duration = Field(
        SECOND, ge=10 * MILLISECOND, le=60 * SECOND, description="a duration from 10ms to 60s, as 1s"
    )
    status_interval: _Duration = Field(
        5 * SECOND, ge=0, le=3600 * SECOND, description="a duration up to 1h, as 5s; 0 for no status line"
    )
    warm_start: bool = Field(True, description="true or false")
    replay_speed: Annotated[float, BeforeValidator(_speed)] = Field(
        0.0, ge=0, allow_inf_nan=False, description="max, or how many times the recorded speed, as 1"
    )
    ws_url: _Words = Field((), description="WebSocket base addresses with commas between, as wss://host:9443")
    rest_url: _Words = Field((), description="REST base addresses with commas between, as https://host")
    archive_url: str = Field(
        "https://data.binance.vision",
        description="the address of the archive, as https://data.binance.vision",
    )
    archive_folder: Path = Field(Path("archive"), description="a folder for files of the archive, as archive")
    http_port: int = Field(
        8123, ge=0, le=65535, description="a port for SQL and REST on 127.0.0.1, as 8123; 0 for none"
    )
    metrics_port: int = Field(9464, ge=0, le=65535, description="a port for Prometheus, as 9464; 0 for none")
    metrics_host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="the address to listen on for Prometheus, as 127.0.0.1, or 0.0.0.0 for all",
    )
    alert_rules: Annotated[tuple[AlertRule, ...], NoDecode, BeforeValidator(_rules)] = Field(
        (),
        description='a list of rules in JSON, as [{"metric": "z_score", "condition": ">", "threshold": 2.5}],'
        f" or [[alert_rules]] tables in {FILE}",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "warning", description="debug, info, warning or error"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment, then the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def source_name(self) -> str:
        """The kind of the source: binance, simulator, recording or archive."""
        return self.source.partition(":")[0]

    @property
    def trade_stream(self) -> str:
        """The stream that is read: by default trade, and aggTrade of live USD-M futures."""
        return self.stream or ("aggTrade" if self._is_live_usdm else "trade")

    @property
    def _is_live_usdm(self) -> bool:
        return self.source == "binance" and self.market == "usdm"

    @property
    def archive_days(self) -> tuple[date, date]:
        """First and last day of an archive source.

        :raises ValueError: when the source names no days.
        """
        first, _, last = self.source.partition(":")[2].partition("..")
        return date.fromisoformat(first), date.fromisoformat(last)

    @property
    def dsn(self) -> str:
        """The address of the store, with its password: not for printing."""
        return self.clickhouse.get_secret_value() or f"chdb://{Path.cwd() / 'data'}"

    @property
    def pair_names(self) -> tuple[str, ...]:
        """The pairs as Y/X; by default all pairs of the symbols, the earlier symbol as X."""
        if self.pairs:
            return self.pairs
        return tuple(f"{y}/{x}" for j, y in enumerate(self.symbols) for x in self.symbols[:j])

    def public(self) -> dict[str, Any]:
        """Return the settings without secrets, for the record of the run."""
        values = self.model_dump(mode="json")
        values["clickhouse"] = without_password(self.dsn)
        return values


def without_password(dsn: str) -> str:
    """Return an address with its password, if any, replaced by ``***``.

    :arg dsn: the address.
    :returns: the same, printable.
    """
    try:
        parts = urlsplit(dsn)
        if parts.password is None:
            return dsn
        host = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{quote(parts.username or '')}:***@{host}").geturl()
    except ValueError:
        return "***"


def _is_source(settings: Settings) -> bool:
    if settings.source_name == "archive":
        try:
            first, last = settings.archive_days
        except ValueError:
            return False
        return first <= last
    return re.fullmatch(r"binance|simulator|recording:.+", settings.source) is not None


def _cross_faults(settings: Settings) -> dict[str, object]:
    """Name the fields that are right by themselves but not together."""
    faults: dict[str, object] = {}
    if not _is_source(settings):
        faults["source"] = settings.source
    if len(set(settings.symbols)) != len(settings.symbols) or any(
        re.search(r"[\s/@!]", s) for s in settings.symbols
    ):
        faults["symbols"] = ",".join(settings.symbols)
    if settings.stream == "trade" and settings._is_live_usdm:
        # Nothing documents it, and what was missed cannot be fetched without a key.
        faults["stream"] = settings.stream
    legs = [pair.split("/") for pair in settings.pairs]
    if len(set(settings.pairs)) != len(legs) or any(
        len(leg) != 2 or leg[0] == leg[1] or not set(leg) <= set(settings.symbols) for leg in legs
    ):
        faults["pairs"] = ",".join(settings.pairs)
    bars = [t for t in settings.timeframes if t]
    if (
        not bars
        or len(set(settings.timeframes)) != len(settings.timeframes)
        or any(t % bars[0] for t in bars)
    ):
        faults["timeframes"] = ",".join(map(timeframe_name, settings.timeframes))
    if len(set(settings.windows)) != len(settings.windows):
        faults["windows"] = ",".join(map(str, settings.windows))
    if settings.z_entry <= settings.z_exit:
        faults["z_entry"] = settings.z_entry
    if len(set(settings.methods)) != len(settings.methods) or not set(settings.methods) <= set(METHODS):
        faults["methods"] = ",".join(settings.methods)
    dsn = settings.dsn
    if not re.match(r"chdb:///.|clickhouses?://[^/]*[^/@]", dsn):
        faults["clickhouse"] = without_password(dsn)
    for name, urls, schemes in (
        ("archive_url", (settings.archive_url,), {"http", "https"}),
        ("ws_url", settings.ws_url, {"ws", "wss"}),
        ("rest_url", settings.rest_url, {"http", "https"}),
    ):
        if any(urlsplit(url).scheme not in schemes or not urlsplit(url).netloc for url in urls):
            faults[name] = ",".join(urls)
    return faults


def _rule_faults(settings: Settings) -> Iterator[str]:
    """Name the rules that would wait for ever for what this run does not compute."""
    known: dict[str, set[object]] = {
        "pair": set(settings.pair_names),
        "timeframe": {timeframe_name(length) for length in settings.timeframes},
        "window": set(settings.windows),
        "method": set(settings.methods),
    }
    for number, rule in enumerate(settings.alert_rules, 1):
        for name, values in known.items():
            value = getattr(rule, name)
            if value and value not in values:
                yield _rule_fault(number, name, value)


def _rule_fault(number: int, name: str, value: object) -> str:
    return f"alert_rules, rule {number}: {fault(name, value)}"


def _unknown(environment: Mapping[str, str]) -> list[str]:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    lines = []
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known:
            close = difflib.get_close_matches(name, known, 1)
            lines.append(f"{name}: no such setting" + (f"; did you mean {close[0]}?" if close else ""))
    return lines


def load_settings() -> Settings:
    """Read and check the settings of this process.

    :returns: the settings.
    :raises SettingsError: naming every fault.
    """
    faults = _unknown(os.environ)
    settings = None
    named: dict[str, object] = {}
    try:
        settings = Settings()
        named = _cross_faults(settings)
        faults.extend(_rule_faults(settings))
    except ValidationError as error:
        for fault in error.errors():
            name = str(fault["loc"][0]) if fault["loc"] else ""
            if name == "alert_rules" and len(fault["loc"]) > 2:
                faults.append(_rule_fault(int(fault["loc"][1]) + 1, str(fault["loc"][2]), fault["input"]))
            elif fault["type"] == "extra_forbidden":
                close = difflib.get_close_matches(name, Settings.model_fields, 1)
                hint = f"; did you mean {close[0]}?" if close else ""
                faults.append(f"{name} in {FILE}: no such setting{hint}")
            else:
                named[name] = os.environ.get(PREFIX + name.upper(), fault["input"])
    except (OSError, ValueError) as error:  # the file cannot be read or is not TOML
        faults.append(f"{FILE}: {error}; expected TOML, a line per setting, as symbols = ['BTCUSDT']")
    for name, value in named.items():
        variable = PREFIX + name.upper()
        where = variable if variable in os.environ or not FILE.exists() else f"{name} in {FILE}"
        shown = without_password(str(value)) if name == "clickhouse" else value
        faults.append(f"{where}={shown}: expected {Settings.model_fields[name].description}")
    if faults or settings is None:
        raise SettingsError(faults)
    return settings
