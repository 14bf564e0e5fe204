"""For the few tests that watch the clock because time is what they are about."""

from __future__ import annotations

import pytest

# Whatever else the machine does may hold such a test up: it gets two more tries. One that is broken fails all three.
timed = pytest.mark.flaky(reruns=2)
