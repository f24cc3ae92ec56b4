"""Compiled numerics: arrays in, arrays out. No I/O, no Bytewax, no Python objects in a loop."""
