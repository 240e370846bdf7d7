"""Where are the servers of vectors that tests may use? Each test module asks here, and only here.

`make milvus-server` and `make pgvector` start one and name it in the environment.
"""

import os

ADDRESS_OF = {"milvus": "SHORTLIST_MILVUS_URI", "pgvector": "SHORTLIST_PGVECTOR"}
"""The indexes whose vectors are in a server, and what in the environment names it."""

NAMED = [kind for kind, variable in ADDRESS_OF.items() if os.environ.get(variable)]
"""Those that can be tested here."""
