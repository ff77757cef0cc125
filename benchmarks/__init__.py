"""What is measured is the compiled loops, not when "auto" takes them: so they are compiled at once."""

import os

os.environ.setdefault("BNKIT_COMPILE", "now")
