"""Whatever the moment at which a signal comes, it ends the wait of the main thread."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

from crawlfleet.core.wakeup import Wakeup

WAITS_FOR_SIGNALS = """
import os, signal, threading, time
from crawlfleet.core.wakeup import Wakeup
wakeup, seen = Wakeup(), []
def handle(number, frame):
    if seen:
        os._exit(7)
    seen.append(number)
    wakeup.wake()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, handle)
for _ in range(4):  # threads that the kernel may hand a signal to
    threading.Thread(target=lambda: [time.sleep(0.01) for _ in range(3000)], daemon=True).start()
print("ready", flush=True)
while True:
    wakeup.wait()
"""


def test_two_signals_at_once_end_the_wait() -> None:
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", WAITS_FOR_SIGNALS], stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(20) == 7
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def test_a_wake_up_before_the_wait_is_not_lost_and_many_are_one() -> None:
    wakeup = Wakeup()
    for _ in range(100_000):  # more than a pipe holds
        wakeup.wake()
    waiting = threading.Thread(target=wakeup.wait, daemon=True)
    waiting.start()
    waiting.join(20)
    assert not waiting.is_alive()
