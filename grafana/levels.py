"""Levels that dashboards draw: of the settings, of the alert rules, of the exchange and of the literature."""

from flows.settings import Settings

Z_ENTRY = float(Settings.model_fields["z_entry"].default)
"""z-score beyond which a spread is entered."""

Z_EXIT = float(Settings.model_fields["z_exit"].default)
"""z-score within which a spread is exited."""

SIGNIFICANT = 0.05
"""ADF p-value below which a spread counts as stationary, as in the view pair_ranking."""

CORRELATED = 0.7
"""Correlation below which the alert on a pair's correlation fires."""

LAG_SECONDS = 10
"""Time from the end of a bar until it is stored, above which the alert on the lag fires."""

STALE_SECONDS = 30
"""Live data are stale if the newest bar is older than this, and older than three bars."""

WEIGHT_LIMIT = 6000
"""Request weight that the exchange allows an address in a minute (spot)."""

DICKEY_FULLER_5 = -2.86
"""Asymptotic critical value at 5 % of the Dickey-Fuller test with a constant and no trend.

MacKinnon, Critical Values for Cointegration Tests, 2010.
"""
