"""What a worker has made ready for bundles is there for the next window, a quarter of an hour later."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.runners.worker import sdk_worker
from apache_beam.runners.worker.sdk_worker import BundleProcessorCache
from apache_beam.transforms import userstate
from apache_beam.transforms.userstate import BagStateSpec

from ami_beam import ready_steps
from ami_beam.ready_steps import SpecsOfClasses, keep_steps_ready


class Processor:
    """Stands for the steps of a bundle, which Beam ends when it throws them away."""

    ended = False

    def shutdown(self) -> None:
        self.ended = True


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[BundleProcessorCache]:
    # Put back after the test, whatever it is set to in between.
    name = "DEFAULT_BUNDLE_PROCESSOR_CACHE_SHUTDOWN_THRESHOLD_S"
    monkeypatch.setattr(sdk_worker, name, getattr(sdk_worker, name))
    keep_steps_ready()
    cache = BundleProcessorCache(frozenset(), None, None, {})  # type: ignore[arg-type]
    yield cache
    cache.shutdown()


def idle(cache: BundleProcessorCache, seconds: float, monkeypatch: pytest.MonkeyPatch) -> Processor:
    """A step that has been idle for so long when the cache looks for such."""
    processor = Processor()
    cache.cached_bundle_processors["step"].append(processor)  # type: ignore[arg-type]
    cache.last_access_times["step"] = 1_000.0
    monkeypatch.setattr(sdk_worker, "time", SimpleNamespace(time=lambda: 1_000.0 + seconds))
    thread = cache.periodic_shutdown
    assert thread is not None
    thread._function()
    return processor


def test_steps_stay_from_window_to_window(cache: BundleProcessorCache, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not idle(cache, 15 * 60, monkeypatch).ended
    assert not idle(cache, 24 * 3_600, monkeypatch).ended


def test_they_are_gone_when_they_are_not_used_for_days(
    cache: BundleProcessorCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert idle(cache, ready_steps.KEPT_SECONDS + 1, monkeypatch).ended


class _OneState(beam.DoFn):
    STATE = BagStateSpec("one", VarIntCoder())

    def process(self, element: Any, state: Any = beam.DoFn.StateParam(STATE)) -> None: ...


class _OtherState(beam.DoFn):
    STATE = BagStateSpec("other", VarIntCoder())

    def process(self, element: Any, state: Any = beam.DoFn.StateParam(STATE)) -> None: ...


def test_the_states_of_steps_are_looked_for_once_a_class() -> None:
    asked: list[Any] = []

    def look(step: Any) -> Any:
        asked.append(type(step))
        return userstate.get_dofn_specs(step)

    specs = SpecsOfClasses(look)
    assert [{state.name for state in specs(step())[0]} for step in (_OneState, _OtherState, _OneState)] == [
        {"one"},
        {"other"},
        {"one"},
    ]
    assert asked == [_OneState, _OtherState]
