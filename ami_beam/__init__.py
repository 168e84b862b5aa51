"""ami-beam: real-time AMI (smart-meter) data with Apache Beam."""

__version__ = "0.1.0"
