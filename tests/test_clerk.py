"""Which Clerk tokens are accepted, where their keys come from, and that Clerk's own verifier agrees."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyshell.api import clerk_keys
from pyshell.api.clerk import Clerk, InvalidTokenError, KeysUnavailableError, Membership, membership
from pyshell.api.clerk_keys import ConfiguredKey, FetchedKeys
from pyshell.settings import Settings, SettingsError
from tests.clerk_fixtures import ClerkInstance, clerk_instance, public_jwk, public_pem, signing_key
from tests.timed import PATIENCE

PARTY = "https://portal.example"


@pytest.fixture
def instance() -> Iterator[ClerkInstance]:
    with clerk_instance() as running:
        yield running


@pytest.fixture
def verifier(instance: ClerkInstance) -> Clerk:
    clerk = Clerk.from_settings(Settings(clerk_issuer=instance.issuer))
    assert clerk is not None
    return clerk


def without_signature(instance: ClerkInstance) -> str:
    return jwt.encode(instance.claims(), None, "none", {"kid": "ins_first"})  # type: ignore[arg-type]


def signed_with_the_public_key(instance: ClerkInstance) -> str:
    """HS256 with the public key as the secret: algorithm confusion."""
    parts = [{"alg": "HS256", "typ": "JWT", "kid": "ins_first"}, instance.claims()]
    text = ".".join(encode(json.dumps(part).encode()) for part in parts)
    return f"{text}.{encode(hmac.digest(public_pem('ins_first').encode(), text.encode(), hashlib.sha256))}"


def with_another_payload(instance: ClerkInstance) -> str:
    header, _, signature = instance.token().split(".")
    return f"{header}.{encode(json.dumps(instance.claims(sub='user_2')).encode())}.{signature}"


def encode(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


def good_tokens(instance: ClerkInstance) -> dict[str, str]:
    now = int(time.time())
    return {
        "plain": instance.token(azp=PARTY),
        "version 1": instance.token(azp=PARTY, org_id="org_1", org_role="org:admin", org_slug="acme"),
        "version 2": instance.token(azp=PARTY, v=2, o={"id": "org_1", "rol": "admin", "slg": "acme"}),
        "just expired": instance.token(azp=PARTY, exp=now - 2),
        "valid in a moment": instance.token(azp=PARTY, nbf=now + 3, iat=now + 3),
        "fractions of seconds": instance.token(azp=PARTY, exp=now + 9.5, iat=now - 0.5),
        "with an audience": instance.token(azp=PARTY, aud="anyone"),
    }


def bad_tokens(instance: ClerkInstance) -> dict[str, str]:
    now = int(time.time())
    return {
        "empty": "",
        "not a token": "token",
        "two parts": instance.token(azp=PARTY).rpartition(".")[0],
        "header of the wrong type": f"{encode(b'[]')}.{encode(b'{}')}.",
        "no signature": without_signature(instance),
        "cut signature": instance.token(azp=PARTY)[:-10],
        "algorithm confusion": signed_with_the_public_key(instance),
        "another payload": with_another_payload(instance),
        "another key under the same id": instance.token("ins_other", header={"kid": "ins_first"}, azp=PARTY),
        "expired": instance.token(azp=PARTY, exp=now - 7),
        "no expiry": instance.token(azp=PARTY, exp=None),
        "expiry as text": instance.token(azp=PARTY, exp=str(now + 60)),
        "valid later": instance.token(azp=PARTY, nbf=now + 60),
        "issued later": instance.token(azp=PARTY, iat=now + 60),
        "start as text": instance.token(azp=PARTY, nbf="now"),
        "no subject": instance.token(azp=PARTY, sub=None),
        "subject of the wrong type": jwt.PyJWS().encode(
            json.dumps(instance.claims(azp=PARTY, sub=5)).encode(), signing_key("ins_first"), "RS256", {"kid": "ins_first"}
        ),
        "another issuer": instance.token(azp=PARTY, iss="https://clerk.example"),
        "no issuer": instance.token(azp=PARTY, iss=None),
        "another party": instance.token(azp="https://evil.example"),
        "no party": instance.token(),
        "not a session": instance.token(azp=PARTY, header={"typ": "at+jwt"}),
        "of a machine": instance.token(azp=PARTY, header={"cat": "cl_B7d4PD333AAA"}),
    }


# Checks that Clerk's verifier leaves to its callers.
def worse_tokens(instance: ClerkInstance) -> dict[str, str]:
    return {
        "no start": instance.token(azp=PARTY, nbf=None),
        "start as a truth": instance.token(azp=PARTY, nbf=True),
        "no time of issue": instance.token(azp=PARTY, iat=None),
        "another algorithm": jwt.encode(instance.claims(azp=PARTY), signing_key("ins_first"), "RS512", {"kid": "ins_first"}),
        "empty subject": instance.token(azp=PARTY, sub=""),
        "subject that cannot be stored": instance.token(azp=PARTY, sub="user_\0"),
        "unknown critical header": instance.token(azp=PARTY, header={"crit": ["x"], "x": 1}),
        "pending session": instance.token(azp=PARTY, sts="pending"),
        "endless": jwt.PyJWS().encode(
            json.dumps(instance.claims(azp=PARTY) | {"exp": float("inf")}).encode(), signing_key("ins_first"), "RS256", {"kid": "ins_first"}
        ),
        "endless as no number": jwt.PyJWS().encode(
            json.dumps(instance.claims(azp=PARTY) | {"exp": float("nan")}).encode(), signing_key("ins_first"), "RS256", {"kid": "ins_first"}
        ),
        "endless in digits": instance.token(azp=PARTY, exp=10**400),
        "party of the wrong type": instance.token(azp=[PARTY]),
        "from a template": instance.token(azp=PARTY, sid=None),
        "too long": instance.token(azp=PARTY, note="x" * 20_000),
        "nested too deeply": f"{encode(b'[' * 10_000)}.{encode(b'{}')}.",
    }


async def verdicts(clerk: Clerk, tokens: dict[str, str]) -> dict[str, bool]:
    async def is_taken(token: str) -> bool:
        try:
            await clerk.verify(token)
        except InvalidTokenError:
            return False
        return True

    return {name: await is_taken(token) for name, token in tokens.items()}


@pytest.mark.parametrize("networkless", [False, True])
async def test_good_tokens_are_accepted_and_bad_ones_are_refused(instance: ClerkInstance, networkless: bool) -> None:
    settings = Settings(
        clerk_issuer=instance.issuer, clerk_jwt_key=public_pem("ins_first") if networkless else None, clerk_authorized_parties=(PARTY,)
    )
    clerk = Clerk.from_settings(settings)
    assert clerk is not None
    good, bad = good_tokens(instance), bad_tokens(instance) | worse_tokens(instance)
    assert await verdicts(clerk, good | bad) == dict.fromkeys(good, True) | dict.fromkeys(bad, False)
    assert instance.requests == (0 if networkless else 1)


def test_clerk_itself_says_the_same(instance: ClerkInstance, tmp_path_factory: pytest.TempPathFactory) -> None:
    if not shutil.which("npm") or not shutil.which("node"):
        pytest.skip("Node.js is not installed: Clerk's own verifier cannot be asked")
    folder = tmp_path_factory.mktemp("clerk")
    installed = subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", "@clerk/backend@3"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode:
        pytest.skip("@clerk/backend cannot be installed from npm")
    tokens = good_tokens(instance) | bad_tokens(instance)
    script = Path(__file__).parent / "verify_with_clerk.mjs"
    answer = subprocess.run(
        ["node", script],
        cwd=folder,
        input=json.dumps({"tokens": tokens, "jwtKey": public_pem("ins_first"), "issuer": instance.issuer, "authorizedParties": [PARTY]}),
        capture_output=True,
        text=True,
        check=True,
    )
    ours = Clerk(instance.issuer, ConfiguredKey(public_pem("ins_first")), [PARTY])
    assert asyncio.run(verdicts(ours, tokens)) == json.loads(answer.stdout)


@given(st.text(max_size=60) | st.lists(st.binary(max_size=40), min_size=3, max_size=3).map(lambda parts: ".".join(map(encode, parts))))
def test_any_other_text_is_an_invalid_token(token: str) -> None:
    with pytest.raises(InvalidTokenError):
        asyncio.run(Clerk("https://clerk.example", ConfiguredKey(public_pem("ins_first"))).verify(token))


class TestFetchedKeys:
    async def test_are_fetched_once_for_all_who_wait(self, instance: ClerkInstance, verifier: Clerk) -> None:
        instance.delay = 0.1
        token = instance.token()
        await asyncio.gather(*(verifier.verify(token) for _ in range(20)))
        await verifier.verify(token)
        assert instance.requests == 1

    async def test_do_not_block_the_event_loop(self, instance: ClerkInstance, verifier: Clerk) -> None:
        instance.delay = 0.3
        waiting = asyncio.create_task(verifier.verify(instance.token()))
        turns = 0
        while not waiting.done():
            await asyncio.sleep(0.005)
            turns += 1
        assert turns > 3, "the loop runs while the keys are on their way"

    async def test_survive_a_caller_that_goes_away(self, instance: ClerkInstance, verifier: Clerk) -> None:
        instance.delay = 0.2
        gone = asyncio.create_task(verifier.verify(instance.token()))
        await asyncio.sleep(0.05)
        gone.cancel()
        await verifier.verify(instance.token())
        assert instance.requests == 1

    async def test_are_fetched_again_for_a_new_key(self, instance: ClerkInstance, verifier: Clerk, monkeypatch: pytest.MonkeyPatch) -> None:
        await verifier.verify(instance.token())
        monkeypatch.setattr(clerk_keys, "REFETCH_SECONDS", 0.0)
        instance.keys = ["ins_first", "ins_second"]
        await verifier.verify(instance.token("ins_second"))
        assert instance.requests == 2

    async def test_are_not_fetched_for_every_made_up_key(self, instance: ClerkInstance, verifier: Clerk) -> None:
        await verifier.verify(instance.token())
        for number in range(20):
            with pytest.raises(InvalidTokenError, match="unknown key"):
                await verifier.verify(instance.token(header={"kid": f"ins_{number}"}))
        assert instance.requests == 1

    async def test_outlive_an_outage_for_a_while(self, instance: ClerkInstance, verifier: Clerk, monkeypatch: pytest.MonkeyPatch) -> None:
        await verifier.verify(instance.token())
        instance.status = 500
        monkeypatch.setattr(clerk_keys, "RENEW_AFTER_SECONDS", 0.0)
        monkeypatch.setattr(clerk_keys, "REFETCH_SECONDS", 0.0)
        for _ in range(3):
            await verifier.verify(instance.token())
            await asyncio.sleep(0.05)
        assert instance.requests > 1
        monkeypatch.setattr(clerk_keys, "KEEP_SECONDS", 0.0)
        with pytest.raises(KeysUnavailableError):
            await verifier.verify(instance.token())

    async def test_are_fetched_again_sooner_if_none_could_be_fetched(
        self, instance: ClerkInstance, verifier: Clerk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        instance.status = 500
        for _ in range(3):
            with pytest.raises(KeysUnavailableError):
                await verifier.verify(instance.token())
        assert instance.requests == 1
        instance.status = 200
        monkeypatch.setattr(clerk_keys, "FIRST_KEY_RETRY_SECONDS", 0.0)
        await verifier.verify(instance.token())
        assert instance.requests == 2

    @pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"keys": [{"kty": "RSA", "kid": "ins_first", "n": 5, "e": "AQAB"}]}'])
    async def test_that_cannot_be_read_let_nobody_in(self, instance: ClerkInstance, verifier: Clerk, body: bytes) -> None:
        instance.body = body
        with pytest.raises(KeysUnavailableError):
            await verifier.verify(instance.token())

    async def test_of_more_than_a_megabyte_are_not_read(self, instance: ClerkInstance, verifier: Clerk) -> None:
        instance.body = instance.key_set() + b" " * 1024 * 1024
        with pytest.raises(KeysUnavailableError):
            await verifier.verify(instance.token())

    async def test_come_through_the_proxy_of_the_settings_alone(self, instance: ClerkInstance, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "socks5://127.0.0.1:1")
        for settings in (
            Settings(clerk_issuer="http://clerk.example", http_proxy=instance.issuer),
            Settings(clerk_issuer=instance.issuer, http_proxy="http://127.0.0.1:1", no_proxy="127.0.0.1"),
            Settings(clerk_issuer=instance.issuer),
        ):
            clerk = Clerk.from_settings(settings)
            assert clerk is not None
            await clerk.verify(instance.token(iss=settings.clerk_issuer))
        assert instance.requests == 3

    async def test_are_given_up_after_a_short_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(clerk_keys, "FETCH_TIMEOUT_SECONDS", 0.2)
        # The server never responds: without the limit, this would wait until the test times out.
        async with asyncio.timeout(PATIENCE):
            with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(KeysUnavailableError):
                await FetchedKeys(f"http://127.0.0.1:{silent.getsockname()[1]}/").find("ins_first")

    def test_must_be_rsa_keys_for_signing(self) -> None:
        usable = public_jwk("ins_first")
        assert list(clerk_keys.read_key_set({"keys": [usable, {"kty": "oct", "kid": "a", "k": "AAAA"}, {"kty": "EC"}, None]})) == [
            "ins_first"
        ]
        for change in ({"use": "enc"}, {"alg": "RS512"}, {"kid": 5}, {"n": "AQAB"}, {"n": encode(b"\xff" * 128)}):
            with pytest.raises(ValueError, match="no key"):
                clerk_keys.read_key_set({"keys": [usable | change]})


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"org_id": "org_1", "org_slug": "acme", "org_role": "org:admin"}, Membership("org_1", "acme", "admin")),
        ({"org_id": "org_1", "org_role": "basic_member"}, Membership("org_1", None, "basic_member")),
        ({"v": 2, "o": {"id": "org_1", "slg": "acme", "rol": "admin"}}, Membership("org_1", "acme", "admin")),
        ({"v": 2, "o": {"id": "org_1"}, "org_id": "org_2"}, Membership("org_1", None, None)),
        ({"v": 2}, None),
        ({"o": {}}, None),
        ({"o": "org_1"}, None),
        ({"org_id": None}, None),
        ({"org_id": ["org_1"]}, None),
    ],
)
def test_both_versions_of_the_claims_name_the_organization(claims: dict[str, Any], expected: Membership | None) -> None:
    assert membership(claims) == expected


class TestTheSettings:
    def test_name_the_issuer_and_the_parties(self) -> None:
        environment = {"CLERK_ISSUER": "https://clerk.example/", "CLERK_AUTHORIZED_PARTIES": "https://a.example, https://b.example"}
        settings = Settings.from_environment(environment)
        assert settings.clerk_issuer == "https://clerk.example"
        assert settings.clerk_authorized_parties == ("https://a.example", "https://b.example")
        assert Clerk.from_settings(replace(settings, clerk_issuer=None)) is None

    def test_take_a_key_in_one_line(self) -> None:
        one_line = public_pem("ins_first").replace("\n", "\\n")
        settings = Settings.from_environment({"CLERK_ISSUER": "https://clerk.example", "CLERK_JWT_KEY": one_line})
        assert settings.clerk_jwt_key == one_line.strip()

    @pytest.mark.parametrize(
        "environment",
        [
            {"CLERK_ISSUER": "clerk.example"},
            {"CLERK_JWT_KEY": public_pem("ins_first")},
            {"CLERK_ISSUER": "https://clerk.example", "CLERK_JWT_KEY": "sk_test_1"},
        ],
    )
    def test_are_refused_when_wrong(self, environment: dict[str, str]) -> None:
        with pytest.raises(SettingsError, match="CLERK_"):
            Settings.from_environment(environment)
