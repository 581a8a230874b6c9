"""The stories on one host."""
