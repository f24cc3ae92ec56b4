"""The live source against an exchange on the loop-back interface: real sockets, real frames, real faults."""

import pickle
import threading
import time
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
import numpy as np
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, run_main
from structlog.testing import capture_logs

from connectors.binance import recovery
from connectors.binance.endpoints import Endpoints, default_endpoints
from connectors.binance.stream import BinanceSource
from connectors.simulator import Config, Simulator
from kernels.records import Trades
from tests.support.exchange import Exchange, Reader, connected, start


def test_trades_come_in_order_from_the_first_live_one(exchange: Exchange, readers: list[Reader]) -> None:
    reader = start(exchange, readers, ["AAAUSDT", "BBBUSDT"])
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 7, 8)
    exchange.trade("BBBUSDT", 100)
    exchange.trade("AAAUSDT", 9)
    reader.wait_for(7, 8, 9)
    reader.wait_for(100, symbol=1)
    assert reader.gaps() == []


def test_a_lost_connection_is_healed_by_rest_in_order(exchange: Exchange, readers: list[Reader]) -> None:
    reader = start(exchange, readers, ["AAAUSDT"])
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1, 2)
    reader.wait_for(1, 2)
    exchange.refuse = True
    exchange.drop()
    reader.until(connected(exchange, 0))
    exchange.trade("AAAUSDT", *range(3, 1500))
    exchange.refuse = False
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1500, 1501)
    reader.wait_for(*range(1, 1502))
    reader.until(lambda: len(reader.gaps()) >= 2)
    assert reader.gaps() == [
        (3, 1499, "disconnect", "open", 0),
        (3, 1499, "disconnect", "rest", 1497),
    ]


def test_a_restart_goes_on_behind_what_was_handed_out(exchange: Exchange, readers: list[Reader]) -> None:
    first = start(exchange, readers, ["AAAUSDT", "BBBUSDT"])
    first.until(connected(exchange))
    exchange.trade("AAAUSDT", 1, 2)
    first.wait_for(1, 2)
    exchange.trade("AAAUSDT", 3)  # received, perhaps, but never handed out
    state = first.partition.snapshot()
    assert state["last_ids"] == {"AAAUSDT": 2}
    first.partition.close()
    exchange.trade("AAAUSDT", 4, send=False)
    second = start(exchange, readers, ["BBBUSDT", "AAAUSDT"], state)
    second.wait_for(3, 4, symbol=1)
    exchange.trade("AAAUSDT", 5)
    second.wait_for(3, 4, 5, symbol=1)
    second.until(lambda: len(second.gaps()) >= 2)
    assert second.gaps() == [(3, 4, "restart", "open", 0), (3, 4, "restart", "rest", 2)]


def test_after_an_outage_quiet_and_busy_symbols_come_in_step(
    exchange: Exchange, readers: list[Reader]
) -> None:
    first = start(exchange, readers, ["AAAUSDT", "BBBUSDT"])
    first.until(connected(exchange))
    exchange.trade("AAAUSDT", 0)
    exchange.trade("BBBUSDT", 0)
    first.wait_for(0)
    first.wait_for(0, symbol=1)
    state = first.partition.snapshot()
    first.partition.close()
    # While nobody listened, AAA traded 4,000 times, BBB 40 times, over the same 8 s.
    began = exchange.history["AAAUSDT"][0]["T"]
    exchange.trade("AAAUSDT", *range(1, 4001), send=False)
    exchange.trade("BBBUSDT", *range(1, 41), send=False)
    for symbol, count in (("AAAUSDT", 4000), ("BBBUSDT", 40)):
        for trade in exchange.history[symbol][1:]:
            trade["T"] = began + trade["t"] * 8_000_000 // count
    second = start(exchange, readers, ["AAAUSDT", "BBBUSDT"], state)
    second.until(connected(exchange))
    exchange.clock = 8_100_000
    exchange.trade("BBBUSDT", 41)
    exchange.trade("AAAUSDT", 4001)
    half_way = None
    while len(second.ids()) < 4001:
        second.poll_for(0.002)
        if half_way is None and second.ids():
            half_way = second.partition.snapshot()["last_ids"]
    second.wait_for(*range(1, 4002))
    second.wait_for(*range(1, 42), symbol=1)
    times = np.concatenate([block.trades["time"] for block in second.blocks])
    assert (np.diff(times) >= 0).all()
    assert half_way is not None
    assert abs(half_way["AAAUSDT"] - 100 * half_way["BBBUSDT"]) <= 200


def test_a_pause_for_the_weight_limit_does_not_try_the_patience(
    exchange: Exchange, readers: list[Reader]
) -> None:
    first = start(exchange, readers, ["AAAUSDT", "BBBUSDT"])
    first.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    exchange.trade("BBBUSDT", 1)
    first.wait_for(1)
    first.wait_for(1, symbol=1)
    state = first.partition.snapshot()
    first.partition.close()
    exchange.trade("AAAUSDT", 2, send=False)
    exchange.rest_status = 429
    second = start(exchange, readers, ["AAAUSDT", "BBBUSDT"], state, patience=0.5)
    second.until(connected(exchange))
    exchange.trade("BBBUSDT", 2)
    second.poll_for(1.3)
    exchange.rest_status = 200
    assert second.ids(1) == []
    second.wait_for(2)
    second.wait_for(2, symbol=1)
    symbols = np.concatenate([block.trades["symbol"] for block in second.blocks])
    assert symbols.tolist() == [0, 1]


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="unknown stream 'kline'"):
        BinanceSource(["AAAUSDT"], stream="kline", stop=threading.Event())
    with pytest.raises(ValueError, match="at least one symbol"):
        BinanceSource([], stop=threading.Event())
    with pytest.raises(ValueError, match="unknown market 'coinm'"):
        default_endpoints("coinm")


def test_a_missing_id_holds_up_its_own_symbol_only(exchange: Exchange, readers: list[Reader]) -> None:
    reader = start(exchange, readers, ["AAAUSDT", "BBBUSDT"])
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    reader.wait_for(1)
    exchange.rest_status = 503
    exchange.trade("AAAUSDT", 2, send=False)
    exchange.trade("AAAUSDT", 3)
    exchange.trade("BBBUSDT", 50, 51)
    reader.wait_for(50, 51, symbol=1)
    assert reader.ids() == [1]
    assert (reader.status.held, reader.status.open_gaps) == (1, 1)
    exchange.rest_status = 200
    reader.wait_for(1, 2, 3)
    reader.until(lambda: len(reader.gaps()) == 2)
    assert reader.gaps() == [(2, 2, "hole", "open", 0), (2, 2, "hole", "rest", 1)]
    assert reader.status.restored == 1


def test_ids_that_the_exchange_does_not_have_are_given_up(exchange: Exchange, readers: list[Reader]) -> None:
    reader = start(exchange, readers, ["AAAUSDT"])
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    exchange.trade("AAAUSDT", 2, send=False)
    exchange.trade("AAAUSDT", 3, 4, send=False, known=False)
    exchange.trade("AAAUSDT", 5)
    reader.wait_for(1, 2, 5)
    reader.until(lambda: not reader.status.open_gaps)
    assert reader.gaps() == [
        (2, 4, "hole", "open", 0),
        (2, 2, "hole", "rest", 1),
        (3, 4, "hole", "unavailable", 0),
    ]
    assert reader.status.unavailable == 2


def test_what_cannot_be_had_without_a_key_is_given_up_and_life_goes_on(
    exchange: Exchange, readers: list[Reader]
) -> None:
    reader = start(exchange, readers, ["AAAUSDT"], market="usdm")
    reader.until(connected(exchange))
    with capture_logs() as logs:
        exchange.trade("AAAUSDT", 1, 2, 5)
        exchange.trade("AAAUSDT", 6, 8)
        reader.wait_for(1, 2, 5, 6, 8)
        reader.until(lambda: not reader.status.open_gaps)
    (reason,) = [log["reason"] for log in logs if log["log_level"] == "warning"]  # once, not for each gap
    assert "PAIRFLOW_STREAM=aggTrade" in reason
    assert [gap for gap in reader.gaps() if gap[3] != "open"] == [
        (3, 4, "hole", "unavailable", 0),
        (7, 7, "hole", "unavailable", 0),
    ]


def test_ids_out_of_order_between_two_connections_are_no_gap(
    exchange: Exchange, readers: list[Reader]
) -> None:
    reader = start(exchange, readers, ["AAAUSDT"])
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    exchange.say('{"e":"serverShutdown","E":1}')
    reader.until(
        lambda: list(reader.status.connections.values()).count("live") == 1 and len(exchange.sockets) == 2
    )
    exchange.trade("AAAUSDT", 3)
    reader.poll_for(0.1)
    exchange.trade("AAAUSDT", 2)
    reader.wait_for(1, 2, 3)
    assert reader.gaps() == []


def test_a_silent_market_follows_the_clock_of_the_exchange(exchange: Exchange, readers: list[Reader]) -> None:
    exchange.clock = -1_300_000
    reader = start(exchange, readers, ["AAAUSDT"], grace=0.2)
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    reader.wait_for(1)
    behind = reader.watermark
    reader.until(lambda: reader.watermark > behind + 1_000_000)
    now = time.time_ns() // 1000 + exchange.clock
    assert now - 2_000_000 < reader.watermark <= now - 200_000
    outputs = len(reader.blocks)
    reader.poll_for(1.0)
    assert 0 < len(reader.blocks) - outputs <= 10


def test_the_watermark_stands_still_without_a_connection(exchange: Exchange, readers: list[Reader]) -> None:
    reader = start(exchange, readers, ["AAAUSDT"], grace=0.1)
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    reader.until(lambda: len(reader.blocks) > 2)
    exchange.refuse = True
    exchange.drop()
    gone = time.time_ns() // 1000
    exchange.trade("AAAUSDT", 2)
    missed = exchange.history["AAAUSDT"][-1]["T"]
    reader.poll_for(0.8)
    assert reader.watermark < gone
    assert reader.watermark < missed
    exchange.refuse = False
    reader.wait_for(1, 2)
    [block] = [block for block in reader.blocks if 2 in block.trades["id"]]
    before = max(b.watermark for b in reader.blocks[: [b is block for b in reader.blocks].index(True)])
    assert before < missed
    reader.until(lambda: reader.watermark > missed)


def test_the_watermark_waits_for_missing_trades_but_not_for_ever(
    exchange: Exchange, readers: list[Reader]
) -> None:
    reader = start(exchange, readers, ["AAAUSDT"], patience=1.0)
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    reader.wait_for(1)
    exchange.rest_status = 503
    first = exchange.history["AAAUSDT"][-1]["T"]
    exchange.trade("AAAUSDT", 2, send=False)
    time.sleep(0.01)
    exchange.trade("AAAUSDT", 3)
    reader.poll_for(0.6)
    assert reader.watermark <= first
    reader.until(lambda: reader.watermark > first)
    assert reader.ids() == [1]
    exchange.rest_status = 200
    reader.wait_for(1, 2, 3)


def test_a_full_queue_is_dropped_and_healed_by_rest(exchange: Exchange, readers: list[Reader]) -> None:
    reader = start(exchange, readers, ["AAAUSDT"], queue_bytes=2_000)
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    reader.wait_for(1)
    for id_ in range(2, 200):
        exchange.trade("AAAUSDT", id_)
    deadline = time.monotonic() + 10
    while reader.status.overflows <= 100 and time.monotonic() < deadline:
        time.sleep(0.001)  # without polling
    assert reader.status.overflows > 100
    reader.wait_for(*range(1, 200))
    reader.until(lambda: len(reader.gaps()) >= 2)
    first, last, cause, repair, restored = reader.gaps()[-1]
    assert (cause, repair, last - first + 1) == ("overflow", "rest", restored)


def test_a_stream_that_stopped_sending_is_found_out_by_rest(
    exchange: Exchange, readers: list[Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_SILENCE", 1.0)
    monkeypatch.setattr(recovery, "_FRESH", 100_000)
    reader = start(exchange, readers, ["AAAUSDT"])
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    reader.wait_for(1)
    exchange.trade("AAAUSDT", 2, 3, send=False)
    reader.wait_for(1, 2, 3)
    reader.until(lambda: len(reader.gaps()) >= 2 and reader.status.reconnections == 1)
    assert reader.gaps()[-1] == (2, 3, "stale", "rest", 2)


def test_ids_that_start_again_are_followed_and_said_so(exchange: Exchange, readers: list[Reader]) -> None:
    reader = start(exchange, readers, ["AAAUSDT"])
    reader.until(connected(exchange))
    exchange.trade("AAAUSDT", 1000)
    reader.wait_for(1000)
    exchange.clock = 5_000_000
    with capture_logs() as logs:
        exchange.trade("AAAUSDT", 7, 8)
        reader.wait_for(1000, 7, 8)
    assert [log["event"] for log in logs if log["log_level"] == "warning"] == [
        "trade ids start again; what came between cannot be told"
    ]


def test_a_dataflow_that_is_stopped_and_resumed_misses_nothing(tmp_path: Path) -> None:
    init_db_dir(tmp_path, 1)  # type: ignore[no-untyped-call]
    symbols = ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    out: list[tuple[str, Trades]] = []
    with Simulator(Config(symbols=tuple(symbols), rate=500.0)) as simulator:
        endpoints = Endpoints((simulator.ws_url,), (simulator.url,))
        for _ in range(3):
            stop = threading.Event()
            flow = Dataflow("feed")
            trades = op.input("trades", flow, BinanceSource(symbols, endpoints=endpoints, stop=stop))
            op.output("out", trades, TestingSink(out))
            ender = threading.Timer(1.5, stop.set)
            ender.start()
            recovery = RecoveryConfig(tmp_path)  # type: ignore[no-untyped-call]
            run_main(  # type: ignore[no-untyped-call]
                flow, epoch_interval=timedelta(seconds=0.1), recovery_config=recovery
            )
            ender.join()
            time.sleep(0.3)
        every = np.concatenate([item.trades for _, item in out])
        for symbol, name in enumerate(symbols):
            mine = every[every["symbol"] == symbol]
            truth = simulator.trades(name, int(mine["id"][0]), int(mine["id"][-1]))
            assert len(mine) > 100
            for column in ("id", "time", "price", "quantity", "buyer_is_maker"):
                assert (mine[column] == truth[column]).all()
    watermarks = [item.watermark for _, item in out]
    assert watermarks == sorted(watermarks)


def test_a_position_of_another_stream_is_not_taken_up(exchange: Exchange, readers: list[Reader]) -> None:
    first = start(exchange, readers, ["AAAUSDT"])
    first.until(connected(exchange))
    exchange.trade("AAAUSDT", 1)
    first.wait_for(1)
    state = first.partition.snapshot()
    assert pickle.loads(pickle.dumps(state)) == state
    with capture_logs() as logs:
        other = start(exchange, readers, ["AAAUSDT"], state, stream="aggTrade")
    assert other.partition.snapshot()["last_ids"] == {}
    assert "another feed" in logs[0]["event"]
