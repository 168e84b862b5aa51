"""For Beam's `--setup_file`, which builds the package for remote workers. Everything is in pyproject.toml."""

from setuptools import setup

setup()
