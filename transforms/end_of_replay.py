"""When steps that give only the end of a replay give it: one after the other, each with all that came before it."""

from __future__ import annotations

from ami_beam.instants import MAX_INSTANT, MICROS_PER_SECOND

LOCATED = MAX_INSTANT
FOUND = MAX_INSTANT + MICROS_PER_SECOND
COLLECTED = MAX_INSTANT + 2 * MICROS_PER_SECOND
PUBLISHED_AT_END = MAX_INSTANT + 3 * MICROS_PER_SECOND
EXPLAINED_AT_END = MAX_INSTANT + 4 * MICROS_PER_SECOND
