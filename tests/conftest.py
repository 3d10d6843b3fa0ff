"""Settings of all tests."""

import os
import signal
import sys
from pathlib import Path

# Tests send SIGINT. If they run in the background it may be ignored, and programs that are started
# here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Use Ansible's programs of this environment, even if it is not activated.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
