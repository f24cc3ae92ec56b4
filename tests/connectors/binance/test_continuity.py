"""Whatever is doubled, mixed up, cut short or lost: each id once, in order, or in a row of `gaps`."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.binance.continuity import NONE, Alignment, Continuity
from connectors.binance.gap_book import GapBook
from kernels.records import GAP_REPAIRS, TRADE, Block


def block_of(ids: list[int], symbol: int = 0) -> Block:
    """Trades whose every field follows from symbol and id, so that a mix-up shows."""
    block = np.zeros(len(ids), TRADE)
    block["id"] = block["first_id"] = block["last_id"] = ids
    block["time"] = block["id"] * 10
    block["price"] = block["id"] + symbol / 2
    block["symbol"] = symbol
    return block


def ids_of(block: Block, symbol: int = 0) -> list[int]:
    return [int(id_) for id_ in block["id"][block["symbol"] == symbol]]


def test_a_block_without_faults_passes_uncopied() -> None:
    feed = Continuity(2)
    block = np.concatenate([block_of([5, 6]), block_of([90], 1), block_of([7])])
    assert feed.push(block) is block
    assert feed.last.tolist() == [7, 90]
    assert feed.last_time.tolist() == [70, 900]


def test_newer_trades_wait_for_missing_ones_of_their_symbol_only() -> None:
    feed = Continuity(2, [4, 7])
    out = feed.push(np.concatenate([block_of([5, 7]), block_of([8], 1), block_of([8])]))
    assert (ids_of(out), ids_of(out, 1)) == ([5], [8])
    assert (feed.held, feed.blocked, feed.missing(0), feed.missing(1)) == (2, [0], [(6, 6)], [])
    assert ids_of(feed.push(block_of([6]))) == [6, 7, 8]
    assert (feed.held, feed.blocked, feed.missing(0)) == (0, [], [])


def test_symbols_that_waited_together_go_on_in_order_of_time() -> None:
    feed = Continuity(2, [0, 0])
    feed.push(np.concatenate([block_of([2, 4]), block_of([2, 4], 1)]))
    out = feed.push(np.concatenate([block_of([1, 3]), block_of([1, 3], 1)]))
    assert (ids_of(out), ids_of(out, 1)) == ([1, 2, 3, 4], [1, 2, 3, 4])
    assert out["time"].tolist() == [10, 10, 20, 20, 30, 30, 40, 40]


def test_given_up_ids_let_later_trades_go_on_up_to_the_next_hole() -> None:
    feed = Continuity(1, [0])
    assert ids_of(feed.push(block_of([3, 4, 7]))) == []
    assert feed.missing(0) == [(1, 2), (5, 6)]
    assert ids_of(feed.skip(0, 2)) == [3, 4]
    assert ids_of(feed.push(block_of([2, 1]))) == []
    assert feed.duplicates == 2
    assert ids_of(feed.skip(0, 6)) == [7]
    assert ids_of(feed.skip(0, 9)) == []
    assert ids_of(feed.push(block_of([10]))) == [10]


def test_trades_of_no_symbol_are_left_out() -> None:
    feed = Continuity(1)
    assert ids_of(feed.push(np.concatenate([block_of([1], -1), block_of([1])]))) == [1]


def test_what_may_wait_is_bounded_and_what_finds_no_room_comes_again() -> None:
    feed = Continuity(2, [0, 0], limit=50)
    feed.push(block_of(list(range(2, 12)), 1))
    for first in range(2, 202, 20):
        feed.push(block_of(list(range(first, first + 20))))
        assert feed.held <= 50
    assert (feed.held, feed.dropped, feed.shed) == (50, 160, {0})
    assert ids_of(feed.push(block_of([1], 1)), 1) == list(range(1, 12))
    assert ids_of(feed.push(block_of([1]))) == list(range(1, 42))
    feed.push(block_of([201]))
    assert feed.missing(0) == [(42, 200)]
    assert ids_of(feed.push(block_of(list(range(1, 201))))) == list(range(42, 202))
    assert feed.held == 0


def test_without_any_room_trades_still_go_on_in_order() -> None:
    feed = Continuity(1, [0], limit=0)
    assert ids_of(feed.push(block_of([2, 3]))) == []
    assert (feed.blocked, feed.missing(0)) == ([], [])
    assert ids_of(feed.push(block_of([3, 1, 2]))) == [1, 2, 3]
    assert ids_of(feed.push(block_of([5, 4, 7]))) == [4, 5]


def test_a_symbol_that_starts_again_is_taken_from_its_next_trade() -> None:
    feed = Continuity(1, [100])
    feed.push(block_of([102]))
    feed.restart(0)
    assert (feed.held, feed.last.tolist()) == (0, [NONE])
    assert ids_of(feed.push(block_of([3, 4]))) == [3, 4]


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[int], list[list[tuple[int, int]]], set[tuple[int, int]]]:
    """Trades per symbol; the blocks in which several connections and REST bring them; those never brought."""
    counts = draw(st.lists(st.integers(1, 30), min_size=1, max_size=3))
    every = [(symbol, id_) for symbol, count in enumerate(counts) for id_ in range(1, count + 1)]
    lost = draw(st.sets(st.sampled_from(every)))
    brought = [trade for trade in every if trade not in lost]
    copies = draw(st.lists(st.sampled_from(brought), max_size=40)) if brought else []
    # Runs of ids, as connections bring them, and single ids, as nothing does.
    order = brought + copies
    if draw(st.booleans()):
        order = draw(st.permutations(order))
    else:
        for _ in range(draw(st.integers(1, 6))):
            i, j = sorted(draw(st.tuples(st.integers(0, len(order)), st.integers(0, len(order)))))
            order = order[j:] + order[i:j] + order[:i]
    cuts = sorted(draw(st.lists(st.integers(0, len(order)), max_size=8)))
    blocks = [order[i:j] for i, j in zip([0, *cuts], [*cuts, len(order)])]
    return counts, blocks, lost


def mixed(trades: list[tuple[int, int]]) -> Block:
    return np.concatenate(
        [np.empty(0, TRADE), *(block_of([id_], symbol) for symbol, id_ in trades)], dtype=TRADE
    )


@settings(max_examples=300, deadline=None)
@given(histories())
def test_nothing_that_came_is_lost_held_back_or_called_missing(
    history: tuple[list[int], list[list[tuple[int, int]]], set[tuple[int, int]]],
) -> None:
    counts, blocks, _ = history
    feed = Continuity(len(counts), [0] * len(counts))
    came: list[set[int]] = [set() for _ in counts]
    emitted: list[list[int]] = [[] for _ in counts]
    total = 0
    for block in blocks:
        total += len(block)
        out = feed.push(mixed(block))
        for symbol, id_ in block:
            came[symbol].add(id_)
        held = 0
        for symbol, ids in enumerate(came):
            emitted[symbol] += ids_of(out, symbol)
            ready = next(id_ for id_ in range(1, 32) if id_ not in ids)
            assert emitted[symbol] == list(range(1, ready))
            missing = [id_ for first, last in feed.missing(symbol) for id_ in range(first, last + 1)]
            assert missing == [id_ for id_ in range(1, max(ids, default=0)) if id_ not in ids]
            held += len(ids) - ready + 1
        assert feed.held == held
        assert feed.duplicates == total - sum(map(len, came))


@settings(max_examples=300, deadline=None)
@given(histories(), st.sampled_from([0, 1, 7, 10_000]))
def test_each_id_once_in_order_or_in_a_gap_row(
    history: tuple[list[int], list[list[tuple[int, int]]], set[tuple[int, int]]], limit: int
) -> None:
    counts, blocks, lost = history
    feed = Continuity(len(counts), [0] * len(counts), limit=limit)
    book = GapBook()
    out = []

    def note() -> None:
        for symbol in feed.blocked:
            for first, last in feed.missing(symbol):
                book.open(symbol, first, last, 1, "hole")
        for symbol in book.symbols:
            book.close(symbol, int(feed.last[symbol]), 2)

    for block in blocks:
        out.append(feed.push(mixed(block)))
        assert feed.held <= max(limit, 0)
        note()
    # REST brings, a page at a time, whatever it has and the bounded memory could not keep.
    for symbol, count in enumerate(counts):
        while (last := int(feed.last[symbol])) < count:
            page = [id_ for id_ in range(last + 1, count + 1) if (symbol, id_) not in lost][:4]
            first = page[0] if page else count + 1
            if first > last + 1:
                missing = feed.missing(symbol)
                until = min(first - 1, missing[0][1]) if missing else first - 1
                book.open(symbol, last + 1, until, 3, "hole")
                book.unavailable(symbol, last + 1, until, 4)
                out.append(feed.skip(symbol, until))
                note()
            if page:
                book.open(symbol, int(feed.last[symbol]) + 1, page[-1], 3, "hole")
                book.restored(symbol, page[0], page[-1])
                out.append(feed.push(block_of(page, symbol)))
                note()
    rows = book.take()
    assert len(book) == 0
    trades = np.concatenate(out)
    for symbol, count in enumerate(counts):
        emitted = trades[trades["symbol"] == symbol]
        assert (np.diff(emitted["id"]) > 0).all()
        assert (emitted["price"] == emitted["id"] + symbol / 2).all()
        given_up = {
            id_
            for row in rows[(rows["symbol"] == symbol) & (rows["repair"] == GAP_REPAIRS.index("unavailable"))]
            for id_ in range(row["first_id"], row["last_id"] + 1)
        }
        assert given_up == {id_ for lost_symbol, id_ in lost if lost_symbol == symbol}
        assert set(emitted["id"].tolist()) | given_up == set(range(1, count + 1))
        assert not set(emitted["id"].tolist()) & given_up
        # Each gap that opened was closed; closed rows don't overlap, and say how many of their ids came.
        mine = rows[rows["symbol"] == symbol]
        closed = np.sort(mine[mine["repair"] != GAP_REPAIRS.index("open")], order="first_id")
        assert (closed["first_id"][1:] > closed["last_id"][:-1]).all()
        opened = mine["first_id"][mine["repair"] == GAP_REPAIRS.index("open")]
        assert np.isin(opened, closed["first_id"]).all()
        for row in closed:
            ids = set(range(row["first_id"], row["last_id"] + 1))
            assert row["restored"] == (0 if ids <= given_up else len(ids))
            assert ids <= given_up or not ids & given_up


@pytest.mark.parametrize("size", [1, 1000])
def test_many_symbols_in_one_block_keep_their_own_order(size: int) -> None:
    rng = np.random.default_rng(size)
    n = 50
    parts = [block_of(list(range(1, size + 1)), symbol) for symbol in range(n)]
    block = np.concatenate(parts)[rng.permutation(n * size)]
    feed = Continuity(n, [0] * n)
    out = np.concatenate([feed.push(piece.copy()) for piece in np.array_split(block, 7)])
    assert len(out) == n * size
    for symbol in range(n):
        assert ids_of(out, symbol) == list(range(1, size + 1))


def at_times(times: list[int], symbol: int) -> Block:
    block = block_of(list(range(1, len(times) + 1)), symbol)
    block["time"] = times
    return block


def test_symbols_that_catch_up_are_handed_out_in_step() -> None:
    alignment = Alignment()
    alignment.add(at_times([10, 500, 900], 0))
    alignment.add(at_times([20, 30, 40], 1))
    assert alignment.first == {0: (1, 10), 1: (1, 20)}
    assert alignment.release(40)["time"].tolist() == [10, 20, 30, 40]
    assert (alignment.count, alignment.first) == (2, {0: (2, 500)})
    late = at_times([50, 800], 1)
    late["id"] += 3
    alignment.add(late)
    assert alignment.first == {0: (2, 500), 1: (4, 50)}
    assert alignment.release(800)["time"].tolist() == [50, 500, 800]
    assert alignment.release()["time"].tolist() == [900]
    assert (alignment.count, alignment.first, len(alignment.release())) == (0, {}, 0)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50)), max_size=40),
    st.lists(st.integers(0, 60)),
    st.booleans(),
)
def test_alignment_goes_by_time_and_keeps_the_order_of_ids_whatever_the_times_are(
    trades: list[tuple[int, int]], releases: list[int], steady: bool
) -> None:
    alignment = Alignment()
    counts = [0, 0, 0]
    newest = [0, 0, 0]
    out = []
    for i, (symbol, time) in enumerate(trades):
        counts[symbol] += 1
        block = block_of([counts[symbol]], symbol)
        newest[symbol] = max(newest[symbol], time)
        block["time"] = newest[symbol] if steady else time
        alignment.add(block)
        if i < len(releases):
            out.append(alignment.release(releases[i]))
            assert (out[-1]["time"] <= releases[i]).all()
    out.append(alignment.release())
    if steady:
        assert all((np.diff(block["time"]) >= 0).all() for block in out)
    every = np.concatenate(out)
    for symbol, count in enumerate(counts):
        assert ids_of(every, symbol) == list(range(1, count + 1))
