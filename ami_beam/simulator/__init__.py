"""A simulated head-end: a distribution grid, its meters, and everything that goes wrong on the way from them.

`Simulation` yields records in arrival order; `python -m ami_beam.simulate` writes or publishes them.
"""

from ami_beam.simulator.faults import Condition, FaultRates
from ami_beam.simulator.headend import CollectionRates
from ami_beam.simulator.simulation import Record, Simulation

__all__ = ["CollectionRates", "Condition", "FaultRates", "Record", "Simulation"]
