"""schemathesis against the running server, with a worker: whatever it sends, the response is as openapi.json says, and not a 5xx.

A few examples for each operation; `make fuzz` has 200.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pyshell.api import api_keys
from pyshell.settings import ROOT, Settings
from tests.http_fixtures import PEPPER, running_server
from tests.worker_fixtures import end_with_parent

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")
OPTIONS = ["--checks=all", f"--max-examples={EXAMPLES or 3}", "--continue-on-failure", "--request-timeout=70"]
# Nothing that another run found is tried. What Hypothesis works out about Unicode takes seconds and is always the same: it is kept.
OPTIONS.append("--generation-database=:memory:")
ENVIRONMENT = os.environ | {"HYPOTHESIS_STORAGE_DIRECTORY": str(ROOT / ".hypothesis")}
if not EXAMPLES:
    OPTIONS.append("--seed=1")


# What no schema can say: that a key must not be reused with another body (422), which columns the file has, which devices, networks and
# addresses exist (400), which cursors responses had (400), and that what has not changed is not sent again (304). And 200 for a wrong
# upload is its dry run; a real one gets 201.
# A draft accepts rows whatever is wrong with them (201); its repairs name its columns and rows, and its start needs them to be valid
# (400).
CONFIG = """
hooks = "{hooks}"

[auth.openapi.apiKey]
api_key = "{key}"

[[operations]]
include-name = "POST /batch-lookups"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 401, 403, 404, 409, 422, 429]
checks.negative_data_rejection.expected-statuses = [200, 400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429]

[[operations]]
include-name = [
    "POST /incentives", "PATCH /organization", "POST /api-keys", "PUT /webhook-config", "GET /batch-lookups",
    "GET /batch-lookups/{{job_id}}/items", "GET /incentive-reports", "GET /incentive-reports/{{report_id}}",
    "GET /api-keys", "GET /applications", "GET /webhook-deliveries", "GET /batch-lookups/{{job_id}}",
    "GET /batch-lookups/{{job_id}}/results", "GET /utilities", "GET /audit-events", "GET /usage", "GET /uploads",
    "GET /uploads/{{upload_id}}/rows", "GET /incentive-reports/diff",
]
checks.positive_data_acceptance.expected-statuses = ["2xx", 304, 400, 401, 403, 404, 409, 429]

[[operations]]
include-name = ["POST /uploads", "PATCH /uploads/{{upload_id}}", "POST /uploads/{{upload_id}}/start"]
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 401, 403, 404, 409, 422, 429]
checks.negative_data_rejection.expected-statuses = [200, 201, 400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429]

[[operations]]
include-name = "GET /realtime/v1/websocket"
checks.positive_data_acceptance.expected-statuses = [101, 401, 426]
"""

# What may end the key that all requests are made with stands alone: after it, nothing is answered but 401.
ENDS_KEYS = "^(revokeApiKey|rotateApiKey)$"
PARTS = [f"--exclude-operation-id-regex={ENDS_KEYS}", f"--include-operation-id-regex={ENDS_KEYS}"]


@pytest.mark.parametrize("part", PARTS, ids=["all but the end of keys", "the end of keys"])
@pytest.mark.long
def test_every_response_is_as_described_whatever_is_sent(
    new_database: Callable[..., str], tmp_path: Path, capfd: pytest.CaptureFixture[str], part: str
) -> None:
    settings = Settings(database_url=new_database(), api_key_pepper=PEPPER)
    key = api_keys.create(settings.database_url, "fuzz", pepper=PEPPER)
    with running_server(settings) as url:
        worker = subprocess.Popen(
            [sys.executable, "-m", "pyshell", "worker"],
            cwd=ROOT,
            env={"DATABASE_URL": settings.database_url, "PORT": str(urlsplit(url).port)},
            stderr=subprocess.DEVNULL,
            preexec_fn=end_with_parent,
        )
        try:
            (tmp_path / "schemathesis.toml").write_text(CONFIG.format(key=key, hooks=Path(__file__).with_name("fuzz_hooks.py")))
            with capfd.disabled():
                run = subprocess.run(
                    [Path(sys.executable).with_name("schemathesis"), "run", f"{url}/openapi.json", *OPTIONS, part],
                    cwd=tmp_path,
                    env=ENVIRONMENT,
                    stdout=None if EXAMPLES else subprocess.PIPE,
                    text=True,
                    check=False,
                )
        finally:
            worker.terminate()
            worker.wait(30)
    assert run.returncode == 0, run.stdout
