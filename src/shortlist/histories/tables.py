"""Which tables does a store of each version have?"""

from typing import NamedTuple

MAGIC = 0x53484556
"""PRAGMA application_id of a store: the letters SHEV."""

EVENTS = """
CREATE TABLE about (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    user ANY NOT NULL, sequence INTEGER NOT NULL, item ANY NOT NULL, kind TEXT, time INTEGER,
    weight REAL, arrived INTEGER NOT NULL, age INTEGER NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY (user, sequence)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX by_sequence ON events (sequence);
CREATE TABLE sent (
    user ANY NOT NULL, id TEXT NOT NULL, sequence INTEGER NOT NULL, digest BLOB NOT NULL,
    age INTEGER NOT NULL,
    PRIMARY KEY (user, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX sent_by_age ON sent (age);
CREATE TABLE forgotten (user ANY PRIMARY KEY, age INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""

ITEMS = """
CREATE TABLE item_changes (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE, digest BLOB NOT NULL, undoes INTEGER,
    undone INTEGER, arrived INTEGER NOT NULL, age INTEGER NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE item_values (
    item ANY NOT NULL, part TEXT NOT NULL, number INTEGER NOT NULL, value TEXT NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (item, part, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX values_by_change ON item_values (number);
CREATE INDEX undone_changes ON item_changes (number) WHERE undone IS NOT NULL;
"""

FEATURES = """
CREATE TABLE event_features (
    sequence INTEGER PRIMARY KEY REFERENCES events (sequence) ON DELETE CASCADE,
    features TEXT NOT NULL, checksum INTEGER NOT NULL
) STRICT;
"""
"""Features are deleted with their event; events without features take no space here."""


class Made(NamedTuple):
    """How a store of one version is created.

    tables: SQL statements.
    counts: names of the entries of the table `about` that are whole numbers.
    """

    tables: str
    counts: tuple[str, ...]


VERSIONS = {
    1: Made(EVENTS, ("last", "age", "seen", "changes")),
    2: Made(EVENTS + ITEMS, ("last", "age", "seen", "changes", "items")),
    3: Made(EVENTS + ITEMS + FEATURES, ("last", "age", "seen", "changes", "items")),
}
"""Versions by PRAGMA user_version. `file.connected` upgrades older ones to the last."""

VERSION = max(VERSIONS)
