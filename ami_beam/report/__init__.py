"""Pictures for reports, from the output folder of a replay: `python -m ami_beam.report`."""
