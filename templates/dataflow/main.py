"""What Dataflow's launcher starts: a file, not a module. It is `python -m ami_beam.run`, with its options."""

from ami_beam.command import leave
from ami_beam.run import main

if __name__ == "__main__":
    leave(main())
