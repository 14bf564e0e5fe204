"""The tests. Their modules and the hundreds of processes that they start cache compiled bytecode, even if the environment disables that."""

import os
import sys

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
