"""What the tests and the examples in the sources share."""

import os

# The compiled loops are tested, not when "auto" takes them; and no test leaves a process behind that compiles.
os.environ.setdefault("BNKIT_COMPILE", "now")

# No test and no example asks a service, or reports to one.
os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false", "WANDB_MODE": "offline"}
