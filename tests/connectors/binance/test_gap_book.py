"""Gaps from their detection to their end: rows that open, grow, fall apart and close."""

from connectors.binance.gap_book import GapBook
from kernels.records import GAP_CAUSES, GAP_REPAIRS


def gap_rows(book: GapBook) -> list[tuple[int, int, int, int, str, str]]:
    return [
        (
            int(row["first_id"]),
            int(row["last_id"]),
            int(row["repaired"]),
            int(row["restored"]),
            GAP_CAUSES[row["cause"]],
            GAP_REPAIRS[row["repair"]],
        )
        for row in book.take()
    ]


def test_a_gap_is_a_row_when_it_opens_and_when_it_closes() -> None:
    book = GapBook()
    book.open(0, 5, 9, 100, "disconnect")
    book.open(0, 5, 9, 101, "disconnect")
    book.restored(0, 5, 7)
    book.close(0, 8, 102)
    assert len(book) == 1
    book.close(0, 9, 103)
    assert gap_rows(book) == [(5, 9, 0, 0, "disconnect", "open"), (5, 9, 103, 5, "disconnect", "rest")]
    assert gap_rows(book) == []
    assert len(book) == 0


def test_a_gap_whose_trades_came_late_by_themselves_says_so() -> None:
    book = GapBook()
    book.open(0, 5, 5, 100, "hole")
    book.close(0, 5, 101)
    assert gap_rows(book)[-1] == (5, 5, 101, 1, "hole", "late")


def test_a_gap_of_which_nothing_came_is_unavailable_in_one_row() -> None:
    book = GapBook()
    book.open(0, 5, 9, 100, "hole")
    book.unavailable(0, 5, 9, 101)
    book.close(0, 9, 102)
    assert gap_rows(book)[1:] == [(5, 9, 101, 0, "hole", "unavailable")]


def test_a_gap_falls_apart_where_only_some_of_its_ids_never_come() -> None:
    book = GapBook()
    book.open(0, 5, 9, 100, "hole")
    book.restored(0, 5, 5)
    book.unavailable(0, 6, 7, 101)
    book.restored(0, 8, 9)
    book.close(0, 9, 102)
    assert gap_rows(book) == [
        (5, 9, 0, 0, "hole", "open"),
        (5, 5, 101, 1, "hole", "rest"),
        (6, 7, 101, 0, "hole", "unavailable"),
        (8, 9, 0, 0, "hole", "open"),
        (8, 9, 102, 2, "hole", "rest"),
    ]


def test_a_gap_grows_while_more_ids_next_to_it_go_missing_for_the_same_cause() -> None:
    book = GapBook()
    book.open(0, 5, 9, 100, "restart")
    book.open(0, 10, 12, 101, "restart")
    book.open(0, 13, 14, 102, "hole")
    book.open(0, 1, 20, 103, "restart")
    assert [(*row[:2], row[4]) for row in gap_rows(book)] == [
        (5, 9, "restart"),
        (5, 12, "restart"),
        (13, 14, "hole"),
        (1, 4, "restart"),
        (15, 20, "restart"),
    ]


def test_open_gaps_survive_a_restart() -> None:
    book = GapBook()
    book.open(3, 5, 9, 100, "overflow")
    later = GapBook()
    later.restore(3, book.state(3))
    later.restored(3, 5, 9)
    later.close(3, 9, 200)
    assert gap_rows(later) == [(5, 9, 200, 5, "overflow", "rest")]
