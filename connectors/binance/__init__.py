"""Binance: the live feed, back-fill over REST, archives and recordings."""
