"""A schema as an earlier program could have had it: made from the present one, with less in it."""

import re
from pathlib import Path

from connectors.clickhouse.schema import FILES, FOLDER


def older_schema(folder: Path) -> Path:
    """Write SQL files in which a statistic is missing, and codecs, comments and checks are others.

    :arg folder: Where.
    :returns: The folder.
    """
    folder.mkdir()
    for name in FILES:
        text = (FOLDER / name).read_text()
        # The statistic `hurst`, in tables, views and checks.
        text = re.sub(r"^    hurst .*\n", "", text, flags=re.M)
        text = re.sub(r",\s+'?hurst'?(?=[,)\s])", "", text)
        # Other codecs, comments, defaults and checks.
        text = text.replace("CODEC(Delta, LZ4)", "CODEC(ZSTD(1))").replace(
            "'last traded price of Y'", "'a price'"
        )
        text = text.replace("for_seconds <= 3600", "for_seconds <= 60")
        text = text.replace("threshold Float64 DEFAULT 2", "threshold Float64 DEFAULT 3")
        text = text.replace("LIMIT 1 BY market, pair, timeframe, window, method;", "LIMIT 9 BY market, pair;")
        (folder / name).write_text(text)
    return folder
