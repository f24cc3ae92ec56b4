"""An independent implementation of docs/statistics.md, slow and plain: what every table holds in the end.

It shares no code with the program but the dtypes of `kernels.records`. Kernels and the whole flow are judged
by it; it is judged by oracles that no one here wrote (`test_*.py` beside it).

    history = histories.history(seed)  # settings, trades and their arrival, drawn from a seed
    expected = tables(history.trades, history.settings)
    # Run history.events, or the blocks of histories.cut(history, seed), through the program.
    assert differences("bars", found_bars, expected.bars) == []
    assert differences("gaps", unfilled(found_gaps), expected.gaps) == []

`tables` takes all trades that ever came, in any order, and the settings, among them the last watermark. Its
frames have the columns of the views in ClickHouse without market, source and version; times are int64
microseconds. Its `gaps` are the ids that never came: whether a row that was filled says `rest` or `late`
depends on the arrival, and a harness knows that from the events.

`differences` says how a harness compares. Names, times, ids, prices, volumes, marks and whether a statistic
is NaN are equal exactly. Statistics are equal to 1e-9, or to what doubles can know where that is less: row by
row, from the columns `pairs.ACCURACY` that `tables` adds. A plain program in doubles that regresses each
window about its last value stays within that.

| module | section of docs/statistics.md |
|---|---|
| `bars` | Trades and gaps, Bars; tick intervals |
| `pairs` | Observations of a pair, Spread and z-score, Correlation |
| `hedge_ratios` | Hedge ratios |
| `unit_roots` | Unit roots and cointegration |
| `signals` | Signals |
| `exact` | sums in integers, which lose no digits |

Where docs/statistics.md leaves a degenerate case open, the reference has these rules:

* A spread that moves by no more than the last digits of the prices that it is made from is constant: no
  z-score and no unit-root statistics. A covariance of that size is 0: total least squares has the hedge ratio
  0, or, where y moves as much as x or more, none.
* A Dickey-Fuller regression whose regressors are collinear, that fits perfectly, or that has more lags than
  statsmodels allows, has no statistic; `aic` and `bic` choose among the others.
* `hurst` is NaN where a V(k) is 0, `variance_ratio_z` where its variance is 0.
* Engle and Granger's statistic is that of the regression also where legs are nearly collinear and statsmodels
  gives up (R2 above 1 - 1.5e-6: it returns -inf).
* With `log`, values are the doubles nearest to the logarithms.
* For `rls`, x moves while its weighted deviation is above the last digit of x. Hedge ratios between that and
  what doubles can know are not compared.
* Trades that are in no bar are in no tick interval.
* A leg's returns are those between its own bars, whether the other leg has bars or not.
"""

from tests.reference.compare import differences, unfilled
from tests.reference.tables import ReferenceSettings, Tables, tables

__all__ = ["ReferenceSettings", "Tables", "differences", "tables", "unfilled"]
