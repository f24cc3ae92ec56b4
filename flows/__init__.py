"""The dataflow and its stateful steps."""
