"""Everything that touches the outside: Binance, the simulated exchange, ClickHouse, metrics."""
