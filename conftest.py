"""What the tests and the examples in the sources share."""

import os

# The compiled loops are tested, not when "auto" takes them; and no test leaves a process behind that compiles.
os.environ.setdefault("BNKIT_COMPILE", "now")
