package org.apache.beam.runners.fnexecution.control;

import java.util.List;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.DelayedBundleApplication;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.ProcessBundleResponse;
import org.apache.beam.runners.core.StateInternalsFactory;
import org.apache.beam.runners.core.StateNamespace;
import org.apache.beam.runners.core.StateNamespaces;
import org.apache.beam.runners.core.StateTags;
import org.apache.beam.runners.core.TimerInternalsFactory;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.state.TimeDomain;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.beam.sdk.util.CoderUtils;
import org.apache.beam.sdk.values.WindowedValue;
import org.apache.beam.sdk.values.WindowedValues;
import org.joda.time.Instant;

/**
 * Takes the place of Beam's class of this name: keeps what is left of a splittable step's work until it goes on.
 *
 * <p>A source such as the native Kafka source stops and goes on several times a second. What Beam's Flink runner 2.70 does
 * then has three faults that this class has not:
 *
 * <ul>
 *   <li>It keeps each rest in keyed state under a name with a fresh id, and Flink keeps a table for every name it has ever
 *       seen: some 80 KB each, 2 GB of heap an hour (Beam's issue 27648). One name is enough, because state is per
 *       element, and an element has one rest at a time, which is cleared before the next comes.
 *   <li>It rounds delays and watermarks down to whole seconds. A source that asked for 100 ms was woken at once.
 *   <li>Woken at once, the next bundle may begin before the last one's watermark is handed on, which waits in the same
 *       queue and is dropped when a bundle is running. Windows then stay open for another bundle, or many of them.
 * </ul>
 */
public class BundleCheckpointHandlers {
  /** For the watermark of a bundle without outputs to be handed on first. */
  private static final long LEAST_DELAY_MILLIS = 20;

  private BundleCheckpointHandlers() {}

  /** Sets a processing-time timer for every rest, which holds the watermark, and stores the rest beside it. */
  public static class StateAndTimerBundleCheckpointHandler<T> implements BundleCheckpointHandler {
    public static final String SDF_PREFIX = "sdf_checkpoint";

    private final TimerInternalsFactory<T> timers;
    private final StateInternalsFactory<T> states;
    private final Coder<WindowedValue<T>> restCoder;
    private final Coder<? extends BoundedWindow> windowCoder;

    @SuppressWarnings({"unchecked", "rawtypes"})
    public StateAndTimerBundleCheckpointHandler(
        TimerInternalsFactory<T> timerInternalsFactory,
        StateInternalsFactory<T> stateInternalsFactory,
        Coder<WindowedValue<T>> residualCoder,
        Coder windowCoder) {
      this.timers = timerInternalsFactory;
      this.states = stateInternalsFactory;
      this.restCoder = residualCoder;
      this.windowCoder = windowCoder;
    }

    /** Whether it is the timer of a rest. The runner finds the rest by the timer's id. */
    public static boolean isSdfTimer(String timerId) {
      return timerId.startsWith(SDF_PREFIX);
    }

    @Override
    public void onCheckpoint(ProcessBundleResponse response) {
      List<DelayedBundleApplication> rests = response.getResidualRootsList();
      for (int index = 0; index < rests.size(); index++) {
        if (rests.get(index).hasApplication()) {
          try {
            keep(rests.get(index), SDF_PREFIX + ":rest:" + index);
          } catch (Exception e) {
            throw new RuntimeException("The rest of a splittable step's work could not be kept", e);
          }
        }
      }
    }

    private void keep(DelayedBundleApplication rest, String name) throws Exception {
      byte[] element = rest.getApplication().getElement().toByteArray();
      WindowedValue<T> whole = CoderUtils.decodeFromByteArray(restCoder, element);
      Instant wakeAt = Instant.now().plus(delay(rest));
      Instant hold = new Instant(watermark(rest));
      for (BoundedWindow window : whole.getWindows()) {
        StateNamespace namespace = namespace(window);
        timers
            .timerInternalsForKey(whole.getValue())
            .setTimer(namespace, name, "", wakeAt, hold, TimeDomain.PROCESSING_TIME);
        states
            .stateInternalsForKey(whole.getValue())
            .state(namespace, StateTags.value(name, restCoder))
            .write(
                WindowedValues.of(
                    whole.getValue(), whole.getTimestamp(), List.of(window), whole.getPaneInfo()));
      }
    }

    @SuppressWarnings({"unchecked", "rawtypes"})
    private StateNamespace namespace(BoundedWindow window) {
      return StateNamespaces.window((Coder) windowCoder, window);
    }

    /** Milliseconds. */
    private static long delay(DelayedBundleApplication rest) {
      long asked =
          rest.getRequestedTimeDelay().getSeconds() * 1_000
              + rest.getRequestedTimeDelay().getNanos() / 1_000_000;
      return Math.max(asked, LEAST_DELAY_MILLIS);
    }

    /** Milliseconds: the least of those that its outputs have, the beginning of time where none has any. */
    private static long watermark(DelayedBundleApplication rest) {
      long least = BoundedWindow.TIMESTAMP_MIN_VALUE.getMillis();
      long greatest = BoundedWindow.TIMESTAMP_MAX_VALUE.getMillis();
      return rest.getApplication().getOutputWatermarksMap().values().stream()
          .mapToLong(each -> each.getSeconds() * 1_000 + each.getNanos() / 1_000_000)
          .map(each -> Math.min(Math.max(each, least), greatest))
          .min()
          .orElse(least);
    }
  }
}
