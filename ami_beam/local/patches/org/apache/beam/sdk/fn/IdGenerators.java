package org.apache.beam.sdk.fn;

import java.util.concurrent.atomic.AtomicLong;

/**
 * Takes the place of Beam's class of this name, so that a job that runs for weeks does not fill the heap.
 *
 * <p>A splittable step that stops and goes on, as the native Kafka source does several times a second, has its rest kept
 * by Beam's Flink runner 2.70 in keyed state under a name with a fresh id. Flink keeps a table for every name it has ever
 * seen: some 80 KB each, 2 GB an hour (Beam's issue 27648). One name is enough, because state is per element, and an
 * element has one rest at a time, which is cleared before the next comes. Everything else gets the ids it always got.
 */
public class IdGenerators {
  private static final String OF_RESTS =
      "org.apache.beam.runners.fnexecution.control.BundleCheckpointHandlers";

  private IdGenerators() {}

  /** 1, 2, 3, …; for the handler of rests always the same. */
  public static IdGenerator incrementingLongs() {
    Class<?> caller =
        StackWalker.getInstance(StackWalker.Option.RETAIN_CLASS_REFERENCE).getCallerClass();
    if (caller.getName().startsWith(OF_RESTS)) {
      return () -> "rest";
    }
    AtomicLong last = new AtomicLong();
    return () -> Long.toString(last.incrementAndGet());
  }

  /** -1, -2, -3, … */
  public static IdGenerator decrementingLongs() {
    AtomicLong last = new AtomicLong();
    return () -> Long.toString(last.decrementAndGet());
  }
}
