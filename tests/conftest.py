"""What all tests share."""

import os
import signal
import sys
from pathlib import Path

# Tests press Ctrl-C. Whoever started them in the background may have had it ignored, and programs
# that are started here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Ansible's programs are those of this environment, however the tests were started.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
