"""The operators' screen: a page that is fed live from the output topics. `python -m ami_beam.dashboard`."""

DEFAULT_PORT = 8088
