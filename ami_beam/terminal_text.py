"""Texts of records on a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with nothing in it that could steer a terminal: names come from a topic."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
