"""The diagnosis, against the simulated exchange: healthy, odd, broken and absent."""

import numpy as np
import pytest

from connectors.binance import __main__ as command
from connectors.simulator import Config, Fault, Simulator
from kernels.records import Block


def check(exchange: Simulator, *arguments: str) -> int:
    return command.main(
        ["check", "--endpoint", exchange.url, "--symbols", "BTCUSDT,ETHUSDT", "--seconds", "3.2", *arguments]
    )


def test_a_healthy_exchange_is_as_expected(capsys: pytest.CaptureFixture[str]) -> None:
    with Simulator(Config(rate=300.0)) as exchange:
        assert check(exchange) == 0
    out = capsys.readouterr().out
    assert "equal the exchange's klines in all fields" in out
    assert "no gaps" in out
    assert "FAIL" not in out


def test_futures_are_compared_with_rest(capsys: pytest.CaptureFixture[str]) -> None:
    with Simulator(Config(rate=300.0, market="usdm")) as exchange:
        assert check(exchange, "--market", "usdm", "--seconds", "2") == 0
    assert "trades equal what REST returns" in capsys.readouterr().out


def test_a_bar_that_differs_is_named_with_both_values(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bars_of = command.bars_of

    def wrong(trades: Block, symbols: int) -> Block:
        bars = bars_of(trades, symbols).copy()
        bars["volume"] *= np.where(bars["symbol"] == 1, 2.0, 1.0)
        return bars

    monkeypatch.setattr(command, "bars_of", wrong)
    with Simulator(Config(rate=300.0)) as exchange:
        assert check(exchange) == 1
    out = capsys.readouterr().out
    assert "FAIL  bars       ETHUSDT" in out
    assert "volume" in out


def test_a_clock_that_differs_is_noted_but_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with Simulator(Config(rate=300.0, clock_offset=1.27)) as exchange:
        assert check(exchange, "--seconds", "1") == 0
    out = capsys.readouterr().out
    assert "note  clock      the exchange is 1.2" in out


def test_messages_that_cannot_be_read_are_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    faults = tuple(Fault("truncate", at=at / 4, count=3) for at in range(2, 40))
    with Simulator(Config(rate=300.0, faults=faults)) as exchange:
        assert check(exchange, "--seconds", "2.5") == 1
    assert "could not be read" in capsys.readouterr().out


def test_an_unknown_symbol_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with Simulator(Config(rate=300.0)) as exchange:
        assert check(exchange, "--symbols", "BTCUSDT,NOPEUSDT") == 1
    assert "no such symbol on Binance spot: NOPEUSDT" in capsys.readouterr().out


def test_no_network_is_said_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_PATIENCE", 0.5)
    assert command.main(["check", "--endpoint", "http://127.0.0.1:9"]) == 1
    out = capsys.readouterr().out
    assert "FAIL  REST       no answer from http://127.0.0.1:9; the last problem: Cannot connect" in out


def test_a_wrong_command_says_what_was_expected(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["check", "--endpoint", "ftp://x"], "expected a URL"),
        (["check", "--symbols", ","], "expected at least one"),
    ):
        with pytest.raises(SystemExit) as stop:
            command.main(arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
