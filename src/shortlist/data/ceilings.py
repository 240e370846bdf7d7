"""How large may a condition on items be? `predicates` reads none beyond."""

MOST_NODES = 64
MOST_DEEP = 8
MOST_VALUES = 10_000
