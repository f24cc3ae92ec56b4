"""The store: ClickHouse, embedded or on a server, and the sink that fills it."""
