"""A child process that crashes or hangs when it is told to: `python -m tests.misbehaving`."""

import json
import os
import signal
import sys
import time

for line in sys.stdin:
    what = json.loads(line)["do"]
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "exit":
        sys.exit(3)
    if what == "hang":
        time.sleep(600)
    print(json.dumps({"problems": [], "did": what, "pid": os.getpid()}), flush=True)
