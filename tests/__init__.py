"""The tests. Their modules and the hundreds of processes that they start keep what they compile, whatever the environment says."""

import os
import sys

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
