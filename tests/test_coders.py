"""Record types cross a shuffle as MessagePack: chosen by type hint, small, and never pickle."""

import pickle
import subprocess
import sys

import apache_beam as beam
import msgspec
import pytest
from apache_beam.coders import coders, registry
from apache_beam.internal import pickler
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.typehints.native_type_compatibility import convert_to_beam_type

from ami_beam import records
from ami_beam.codecs.read_block import ReadBlock
from ami_beam.coders import MsgspecCoder
from ami_beam.meter_counts import MeterCountsVersion
from ami_beam.records import FeederStatistics, MeterCount, StatisticsBatch, TransformerStatistics

FEEDER = FeederStatistics("F1", 1.5, 2.0, 0.5, 2, None, 229.9, 230.1, 0, 1, 0, 99, 1, True)
BATCH = StatisticsBatch(100, [TransformerStatistics("T1", [FEEDER], 2, 2, 99, 1)])
PICKLING = (coders.FastPrimitivesCoder, coders.PickleCoder, coders.DillCoder, coders.CloudpickleCoder)


def parts(coder: coders.Coder) -> list[coders.Coder]:
    return [coder, *(inner for part in coder._get_component_coders() for inner in parts(part))]


@pytest.mark.parametrize(
    "hint",
    [
        StatisticsBatch,
        MeterCountsVersion,
        tuple[int, ReadBlock],
        tuple[int, StatisticsBatch],
        tuple[tuple[int, int], ReadBlock],
        tuple[str, records.Event],
        list[MeterCount],
    ],
)
def test_no_coder_of_a_record_type_pickles(hint: type) -> None:
    chosen = parts(registry.get_coder(convert_to_beam_type(hint)))
    assert any(isinstance(coder, MsgspecCoder) for coder in chosen)
    assert not any(isinstance(coder, PICKLING) for coder in chosen)


def test_every_record_type_that_travels_alone_is_carried() -> None:
    # parts of other records; they never are an element
    nested = {FeederStatistics, TransformerStatistics, records.Observation, records.SummaryRow, records.ReceiptRow,
              records.PublishedAlert, records.MetersBeyond, records.MeterVoltages,
              records.Verdict, records.SupplyNote, records.PackedNotes, records.PowerEvent, records.TransformerPlace,
              records.FoundAlarms, records.Cause, records.TransformerCauses,
              records.CollectedAlarms, records.CollectionGroup,
              records.TransformerHeard, records.MeterStanding, records.SilentMeter, records.FeederRow,
              records.PairTotals, records.VoltageStanding, records.ReceiptStanding, records.SegmentTotals,
              records.TransformerLevels, records.FeederLevels,
              records.TransformerHeat, records.FeederHeat, records.DayHeat,
                  records.ValidatedRead, records.MeterDay, records.CustomerMonth, records.CustomerDay}  # fmt: skip
    for value in vars(records).values():
        if isinstance(value, type) and issubclass(value, msgspec.Struct) and value not in {msgspec.Struct, *nested}:
            assert registry.get_coder(value) == MsgspecCoder(value)


def test_what_is_decoded_equals_what_was_encoded() -> None:
    coder = MsgspecCoder(StatisticsBatch)
    decoded = coder.decode(coder.encode(BATCH))
    assert decoded == BATCH
    assert type(decoded) is StatisticsBatch
    with pytest.raises(msgspec.ValidationError):
        MsgspecCoder(MeterCount).decode(coder.encode(BATCH))


def test_a_coder_pickles_small_and_equals_its_copy() -> None:
    coder = MsgspecCoder(StatisticsBatch)
    for copy in (pickle.loads(pickle.dumps(coder)), pickler.loads(pickler.dumps(coder))):
        assert copy == coder
        assert hash(copy) == hash(coder)
        assert copy.decode(coder.encode(BATCH)) == BATCH
    assert len(pickle.dumps(coder)) < 200
    assert coder != MsgspecCoder(MeterCount)
    assert coder.to_type_hint() is StatisticsBatch


def test_a_record_is_never_a_key() -> None:
    assert not MsgspecCoder(MeterCount).is_deterministic()
    with pytest.raises(ValueError, match="deterministic"):
        MsgspecCoder(MeterCount).as_deterministic_coder("step")


def test_importing_a_record_type_is_enough() -> None:
    program = (
        "from ami_beam.records import Read; from apache_beam.coders import registry; print(registry.get_coder(Read))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "MsgspecCoder[Read]\n"


def test_records_cross_a_shuffle() -> None:
    with TestPipeline(runner="apache_beam.runners.portability.fn_api_runner.FnApiRunner") as pipeline:
        grouped = (
            pipeline
            | beam.Create([1, 2, 3])
            | beam.Map(lambda n: (n % 2, MeterCount(f"T{n}", n))).with_output_types(tuple[int, MeterCount])
            | beam.GroupByKey()
            | beam.MapTuple(lambda key, rows: (key, sorted(row.total_meters for row in rows)))
        )
        assert_that(grouped, equal_to([(0, [2]), (1, [1, 3])]))
