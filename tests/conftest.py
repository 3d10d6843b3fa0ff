"""What all tests share."""

import signal

# Tests press Ctrl-C. Whoever started them in the background may have had it ignored, and programs
# that are started here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
