"""Settings: every fault named in one line; variables and file; no secret shown."""

from pathlib import Path

import pytest

from flows.settings import Settings, SettingsError, load_settings, parse_duration
from kernels.records import MILLISECOND, SECOND, timeframe_name


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable and no file but those a test makes."""
    monkeypatch.chdir(tmp_path)
    import os

    for name in list(os.environ):
        if name.startswith("PAIRFLOW_"):
            monkeypatch.delenv(name)


def faults(monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    for name, value in variables.items():
        monkeypatch.setenv("PAIRFLOW_" + name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    return caught.value.faults


def test_defaults_are_a_run_of_two_symbols_into_a_folder_here(tmp_path: Path) -> None:
    settings = load_settings()
    assert settings.source == "binance"
    assert settings.symbols == ("BTCUSDT", "ETHUSDT")
    assert settings.pair_names == ("ETHUSDT/BTCUSDT",)
    assert settings.timeframes == (0, SECOND, 60 * SECOND, 300 * SECOND)
    assert settings.z_window == 20
    assert (settings.z_entry, settings.z_exit) == (2.0, 0.5)
    assert settings.dsn == f"chdb://{tmp_path / 'data'}"


def test_variables_are_read_and_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "SYMBOLS": "btcusdt, ethusdt,SOLUSDT",
        "TIMEFRAMES": "5m,tick,1s",
        "WINDOWS": "300,60",
        "ALLOWED_LATENESS": "0.5s",
        "STORE_TRADES": "false",
        "REPLAY_SPEED": "max",
        "ADF_LAG": "aic",
        "PRICE_SCALE": "log",
    }
    for name, value in values.items():
        monkeypatch.setenv("PAIRFLOW_" + name, value)
    settings = load_settings()
    assert settings.symbols == ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    assert settings.pair_names == ("ETHUSDT/BTCUSDT", "SOLUSDT/BTCUSDT", "SOLUSDT/ETHUSDT")
    assert settings.timeframes == (0, SECOND, 300 * SECOND)
    assert settings.windows == (300, 60)
    assert settings.allowed_lateness == 500 * MILLISECOND
    assert settings.store_trades is False
    assert settings.adf_lag == -1


def test_an_empty_variable_is_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRFLOW_PAIRS", "")
    assert load_settings().pair_names == ("ETHUSDT/BTCUSDT",)


def test_the_file_is_read_and_a_variable_wins_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("pairflow.toml").write_text('symbols = ["SOLUSDT", "BNBUSDT"]\nz_entry = 3\ntimeframes = "1m"\n')
    monkeypatch.setenv("PAIRFLOW_Z_ENTRY", "2.5")
    settings = load_settings()
    assert settings.symbols == ("SOLUSDT", "BNBUSDT")
    assert settings.z_entry == 2.5
    assert settings.timeframes == (60 * SECOND,)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SOURCE", "kraken"),
        ("SOURCE", "recording:"),
        ("SOURCE", "archive:2024-13-01..2024-13-02"),
        ("SOURCE", "archive:2024-08-02..2024-08-01"),
        ("SYMBOLS", ","),
        ("SYMBOLS", "BTCUSDT,BTCUSDT"),
        ("SYMBOLS", "BTC/USDT"),
        ("PAIRS", "ETHUSDT-BTCUSDT"),
        ("PAIRS", "ETHUSDT/ETHUSDT"),
        ("PAIRS", "SOLUSDT/BTCUSDT"),
        ("MARKET", "futures"),
        ("STREAM", "depth"),
        ("TIMEFRAMES", "1s,7s"),
        ("TIMEFRAMES", "2s,3s"),
        ("TIMEFRAMES", "tick"),
        ("TIMEFRAMES", "1s,1s"),
        ("WINDOWS", "2"),
        ("WINDOWS", "60,sixty"),
        ("Z_WINDOW", "1"),
        ("PRICE_SCALE", "sqrt"),
        ("Z_ENTRY", "nan"),
        ("Z_ENTRY", "0.5"),
        ("METHODS", "ols,ridge"),
        ("ALLOWED_LATENESS", "250"),
        ("CLICKHOUSE", "postgres://localhost/x"),
        ("STORE_TRADES", "perhaps"),
        ("FLUSH_INTERVAL", "1ms"),
        ("WS_URL", "https://x"),
        ("HTTP_PORT", "99999"),
        ("ARCHIVE_URL", "data.binance.vision"),
    ],
)
def test_a_wrong_value_is_one_line_with_name_value_and_what_was_expected(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    (line,) = faults(monkeypatch, **{name: value})
    assert line.startswith(f"PAIRFLOW_{name}=")
    assert line.partition("=")[2].partition(": expected ")[0].replace(" ", "") == value
    assert str(Settings.model_fields[name.lower()].description) in line


def test_all_faults_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = faults(monkeypatch, Z_ENTRY="x", MARKET="y", SYMBOL="BTCUSDT")
    assert len(lines) == 3
    assert "PAIRFLOW_SYMBOL: no such setting; did you mean PAIRFLOW_SYMBOLS?" in lines


def test_faults_of_the_file_name_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("pairflow.toml").write_text('market = "x"\nsymbol = "BTCUSDT"\n')
    lines = faults(monkeypatch)
    assert "market in pairflow.toml=x: expected spot or usdm" in lines
    assert "symbol in pairflow.toml: no such setting; did you mean symbols?" in lines
    Path("pairflow.toml").write_text("= broken")
    (line,) = faults(monkeypatch)
    assert line.startswith("pairflow.toml: ")


def test_no_password_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRFLOW_CLICKHOUSE", "clickhouse://me:s3cret@host:8123/db")
    settings = load_settings()
    assert "s3cret" in settings.dsn
    assert "s3cret" not in str(settings.public()) + repr(settings)
    lines = faults(monkeypatch, CLICKHOUSE="postgres://me:s3cret@host/db")
    assert "s3cret" not in lines[0]


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("250ms", 250_000),
        ("1s", 1_000_000),
        ("1.5 s", 1_500_000),
        ("5m", 300_000_000),
        ("1d", 86_400_000_000),
    ],
)
def test_durations_are_read(text: str, length: int) -> None:
    assert parse_duration(text) == length


@pytest.mark.parametrize("name", ["tick", "1s", "15s", "1m", "5m", "4h", "1d"])
def test_a_timeframe_has_one_name(name: str) -> None:
    length = 0 if name == "tick" else parse_duration(name)
    assert timeframe_name(length) == name


def test_live_futures_are_read_from_aggregates(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().trade_stream == "trade"
    monkeypatch.setenv("PAIRFLOW_MARKET", "usdm")
    assert load_settings().trade_stream == "aggTrade"
    for source in ("simulator", "archive:2024-08-01..2024-08-02", "recording:x"):
        monkeypatch.setenv("PAIRFLOW_SOURCE", source)
        assert load_settings().trade_stream == "trade"
    monkeypatch.setenv("PAIRFLOW_SOURCE", "binance")
    (fault,) = faults(monkeypatch, STREAM="trade")
    assert (
        "PAIRFLOW_STREAM=trade: expected trade or aggTrade; live USD-M futures have aggTrade alone" in fault
    )


def test_alert_rules_come_as_json_or_as_tables_of_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rule = (
        '[{"metric": "z_score", "condition": ">", "threshold": 2, "pair": "ETHUSDT/BTCUSDT", "window": 60}]'
    )
    monkeypatch.setenv("PAIRFLOW_ALERT_RULES", rule)
    by_variable = load_settings().alert_rules
    monkeypatch.delenv("PAIRFLOW_ALERT_RULES")
    lines = [
        "metric = 'z_score'",
        "condition = '>'",
        "threshold = 2",
        "pair = 'ETHUSDT/BTCUSDT'",
        "window = 60",
    ]
    (tmp_path / "pairflow.toml").write_text("\n".join(["[[alert_rules]]", *lines]))
    assert load_settings().alert_rules == by_variable
    assert (by_variable[0].condition, by_variable[0].threshold, by_variable[0].timeframe) == (">", 2.0, "")


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("nonsense", "PAIRFLOW_ALERT_RULES=nonsense: expected a list of rules in JSON"),
        ('{"metric": "z_score"}', "expected a list of rules in JSON"),
        ('[{}, {"metric": "zscore"}]', "alert_rules, rule 2: metric='zscore': expected one of price_y"),
        ('[{"treshold": 2}]', "alert_rules, rule 1: treshold: no such field; did you mean threshold?"),
        ('[{"threshold": "2"}]', "alert_rules, rule 1: threshold='2': expected a number"),
        ('[{"threshold": NaN}]', "alert_rules, rule 1: threshold=nan: expected a number"),
        ('[{"pair": "BTCUSDT/ETHUSDT"}]', "rule 1: pair='BTCUSDT/ETHUSDT': expected a pair that is watched"),
        ('[{"timeframe": "2m"}]', "rule 1: timeframe='2m': expected a timeframe of this run"),
        ('[{"window": 61}]', "rule 1: window=61: expected a window of this run"),
        ('[{"method": "rls"}]', "rule 1: method='rls': expected a method of this run"),
        ('[{"for_seconds": 3601}]', "rule 1: for_seconds=3601: expected whole seconds up to 3600"),
    ],
)
def test_a_rule_that_could_never_fire_is_named(
    monkeypatch: pytest.MonkeyPatch, rules: str, words: str
) -> None:
    found = faults(monkeypatch, ALERT_RULES=rules)
    assert len(found) == 1
    assert words in found[0]
