"""kill -9 of the whole service under load: no acknowledged event is lost, none is doubled."""

import http.client
import json
import os
import signal
import subprocess
import sys
from threading import Lock, Thread

from patience import PATIENCE
from shortlist.histories.sqlite import SQLiteEvents, rows

KILLS = int(os.environ.get("SHORTLIST_KILLS", "1"))
"""`make kills` sets the variable."""

TOKEN, CLIENTS, EACH = "writer-writer-writer", 8, 50

PROGRAM = """
import sys
from pathlib import Path
from shortlist.histories.sqlite import Keeping
from shortlist.serving.run import serve
from shortlist.serving.settings import Limits, Settings, Timeouts
settings = Settings(
    events=Path(sys.argv[2]), write_token="writer-writer-writer", limits=Limits(user_events=10**9),
    keeping=Keeping(of_user=10**9), timeouts=Timeouts(head=300, body=300, answer=300),
)
serve(sys.argv[1], port=0, settings=settings,
      ready=lambda address: sys.stdout.write(address + "\\n") or sys.stdout.flush())
"""


class Senders:
    """Clients who send one event after another until the service is gone, and what they heard."""

    def __init__(self, port, acknowledged):
        self.port, self.acknowledged, self.lock = port, acknowledged, Lock()
        self.threads = [Thread(target=self.send, args=(n,)) for n in range(CLIENTS)]

    def send(self, client):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        headers = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
        with self.lock:
            heard = [number for sender, number in self.acknowledged if sender == client]
        number = max(0, max(heard, default=0) - 5)
        while True:
            # Each begins again where it may have been left without an answer.
            number += 1
            event = {"user": client, "item": number, "id": f"{client}-{number}"}
            try:
                connection.request("POST", "/v1/events", json.dumps({"events": [event]}), headers)
                answer = connection.getresponse()
                body = json.loads(answer.read())
            except (OSError, http.client.HTTPException):
                connection.close()
                return
            if answer.status == 503:  # no bundle is loaded yet
                number -= 1
                continue
            assert answer.status == 200, body
            with self.lock:
                known = self.acknowledged.setdefault((client, number), body["sequence"][0])
                assert known == body["sequence"][0]


def test_what_was_acknowledged_over_http_is_there_once_after_a_kill(bundle, tmp_path):
    store, acknowledged = tmp_path / "events.sqlite", {}
    for kill in range(KILLS):
        wanted = (kill + 1) * CLIENTS * EACH
        command = [sys.executable, "-c", PROGRAM, str(bundle), str(store)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            senders = Senders(int(child.stdout.readline().rpartition(":")[2]), acknowledged)
            for thread in senders.threads:
                thread.start()
            while len(acknowledged) < wanted and any(t.is_alive() for t in senders.threads):
                senders.threads[0].join(0.01)
            child.send_signal(signal.SIGKILL)
            for thread in senders.threads:
                thread.join(PATIENCE)
        opened = SQLiteEvents(store)
        assert not opened.incomplete
        opened.close()
        there = [(row.user, row.item, row.sequence) for row in rows(store)]
        assert len({(user, item) for user, item, _ in there}) == len(there)
        kept = {(user, item): sequence for user, item, sequence in there}
        assert acknowledged.items() <= kept.items()
