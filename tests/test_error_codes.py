"""The list of all error codes. Every test with a server checks that it returns no other (`running_server`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyshell.deploy import error_reference
from pyshell.settings import OPENAPI_FILE, ROOT
from tests.conftest import Connection
from tests.http_fixtures import ERRORS, OPENAPI


def test_the_references_are_up_to_date() -> None:
    assert error_reference.FILE.read_text() == error_reference.page(), "docs/errors.md is out of date: `make docs` writes it anew"
    assert OPENAPI_FILE.read_text() == error_reference.description(), "openapi.json lacks codes: `make docs` adds them"


def test_every_explained_code_is_raised() -> None:
    assert set(error_reference.WHAT_TO_DO) <= {code for code, _ in ERRORS}


def test_the_explained_codes_of_items_are_those_that_they_fail_with(database: Connection) -> None:
    policy = {code for (code,) in database.execute("select error_code from app.retry_policy")}
    assert set(error_reference.ITEM_FAILED) == error_reference.item_codes()
    assert error_reference.item_codes() - policy == {"job_cancelled", "lease_expired", "lookup_limit_reached"}
    assert policy <= error_reference.item_codes()


EXPLANATIONS = [*error_reference.WHAT_TO_DO.items(), *error_reference.ITEM_FAILED.items()]


@pytest.mark.parametrize("explanation", [explanation for _, explanation in EXPLANATIONS], ids=[code for code, _ in EXPLANATIONS])
def test_an_explanation_is_whole_sentences(explanation: str) -> None:
    assert re.fullmatch(r"[A-Z`].*\.", explanation)


def test_a_code_has_one_meaning_and_one_status() -> None:
    codes = [code for code, _ in ERRORS]
    assert sorted(codes) == sorted(set(codes))


def test_codes_say_what_happened_and_not_which_rule_was_broken() -> None:
    assert [code for code, _ in ERRORS if re.search(r"(_exists|_required|_is_\w+|_are_\w+|_has_\w+)$", code)] == ["already_exists"]


def test_the_examples_of_the_description_have_codes_of_the_list() -> None:
    examples = set(examples_of_errors(OPENAPI))
    assert len(examples) > 30
    assert examples <= {code for code, _ in ERRORS}


def examples_of_errors(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if {"error", "code", "request_id"} <= part.keys() and isinstance(part["code"], str):
            yield part["code"]
        for inner in part.values():
            yield from examples_of_errors(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from examples_of_errors(inner)


def test_a_raise_without_a_code_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chapter = tmp_path / "sql" / "functions" / "10_foundation.sql"
    chapter.parent.mkdir(parents=True)
    monkeypatch.setattr(error_reference, "ROOT", tmp_path)
    chapter.write_text("        raise sqlstate 'PT404' using message = 'Not found';\n")
    with pytest.raises(ValueError, match=r"10_foundation\.sql: errors for callers are raised by app\.refuse"):
        error_reference.listed()
    chapter.write_text("        perform app.refuse(404, v_code, 'Not found');\n")
    with pytest.raises(ValueError, match=r"10_foundation\.sql: an app\.refuse whose status and code cannot be read"):
        error_reference.listed()


def test_the_comments_of_functions_name_codes_of_the_list() -> None:
    """Such as `409: job_not_ended, retry_in_progress`."""
    known = {code for code, _ in ERRORS}
    for file in sorted((ROOT / "sql" / "functions").glob("*.sql")):
        for comment in re.findall(r"comment on function api\..*?;\n", file.read_text(), re.DOTALL):
            for named in re.findall(r"\b4\d\d:? ([a-z]+_[a-z_]+)", comment):
                assert named in known, (file.name, named)
