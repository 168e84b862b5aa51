"""Faults on real processes: `make chaos`. Nothing here is collected by pytest."""
