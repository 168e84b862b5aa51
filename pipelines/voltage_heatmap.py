"""The voltage heat map: bands of transformers, histograms of feeders, minutes of days."""

from __future__ import annotations

import apache_beam as beam

from ami_beam.records import HeatBatch
from ami_beam.settings import Settings
from transforms.feeder_histograms import FeederHistograms
from transforms.outside_minutes import OutsideMinutes
from transforms.transformer_heat import TransformerHeatRows


def voltage_heatmap(levels: beam.PCollection, settings: Settings) -> beam.PCollection[HeatBatch]:
    """From the voltages of transformers' windows to all rows of the heat map."""
    heat = levels | "TransformerHeat" >> TransformerHeatRows(settings)
    histograms = heat.histograms | "FeederHistograms" >> FeederHistograms(settings)
    days = heat.outside | "OutsideMinutes" >> OutsideMinutes(settings)
    return (heat.rows, histograms, days) | "HeatRows" >> beam.Flatten()
