"""Webhooks go to the public internet and nowhere else, however a URL is written and whatever its name resolves to."""

from __future__ import annotations

import asyncio
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from pyshell.settings import Settings
from pyshell.webhooks import addresses, requests
from pyshell.webhooks.addresses import is_public
from pyshell.webhooks.requests import MAX_ANSWER_BYTES, Attempt, Delivery, Receiver
from tests.certificates import authority
from tests.timed import PATIENCE
from tests.webhook_receiver import FakeReceiver, Names, fake_receiver, raw_receiver, serving

PUBLIC = [
    *("8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.1", "198.17.255.255"),
    *("223.255.255.255", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e", "2001:4860:4860::8888"),
]
NOT_PUBLIC = {
    "this network": ["0.0.0.0", "0.1.2.3"],
    "private": ["10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.1.1", "192.168.255.255"],
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "unspecified": ["::"],
    "link-local": ["169.254.169.254", "fe80::1", "fe80::1%eth0", "febf::1"],
    "shared by carriers": ["100.64.0.1", "100.127.255.255"],
    "IETF protocols": ["192.0.0.1", "192.0.0.170", "2001::1", "2001:1::1", "2001:20::1"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
    "benchmarks": ["198.18.0.1", "198.19.255.255", "2001:2::1"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.1", "255.255.255.255", "4000::1", "100::1", "5f00::1"],
    "a cloud's platform": ["168.63.129.16"],
    "unique local": ["fc00::1", "fd00:ec2::254"],
    "site-local": ["fec0::1", "2606:4700:4700::1111%eth0"],
    "relays and sinks": ["192.88.99.1", "192.31.196.1", "192.52.193.1", "192.175.48.1", "2620:4f:8000::1"],
    "IPv4 in IPv6, mapped": ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8"],
    "IPv4 in IPv6, compatible": ["::127.0.0.1"],
    "IPv4 in IPv6, NAT64": ["64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1"],
    "IPv4 in IPv6, 6to4": ["2002:7f00:1::1", "2002:a9fe:a9fe::1"],
    "IPv4 in IPv6, Teredo": ["2001:0:7f00:1::1"],
    "no address": ["localhost", "", "127.1", "2130706433"],
}


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(("kind", "address"), [(kind, address) for kind, addresses in NOT_PUBLIC.items() for address in addresses])
def test_not_public(kind: str, address: str) -> None:
    assert not is_public(address), kind


def delivery_to(url: str) -> Delivery:
    return Delivery(b"o" * 16, b"d" * 16, b"t" * 16, b"{}", url, [b"s" * 24], "lookup.completed")


def attempt(url: str, *, allow_private: bool = False, refused: str | None = None, times: int = 1) -> list[Attempt]:
    async def run() -> list[Attempt]:
        receiver = Receiver(url, allow_private=allow_private, refused_networks=[ip_network(refused)] if refused else [])
        attempts = []
        for _ in range(times):
            attempts.append(await receiver.attempt(delivery_to(url)))
            # The client's own threads may take the connection back a moment after the answer.
            await asyncio.sleep(0.01)
        receiver.close()
        return attempts

    return asyncio.run(run())


@dataclass
class Listener:
    """A port of this machine, and the addresses of this machine to which clients connected."""

    port: int
    connected: list[str]


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """A receiver that always hangs up. 127.0.0.1 is refused as usual; 127.0.0.2 and 127.0.0.3 count as public."""
    networks = [network for network in addresses.REFUSED_IPV4 if network != ip_network("127.0.0.0/8")]
    monkeypatch.setattr(addresses, "REFUSED_IPV4", [*networks, ip_network("127.0.0.1/32")])
    connected: list[str] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connected.append(self.request.getsockname()[0])

    with socketserver.ThreadingTCPServer(("0.0.0.0", 0), Handler) as server, serving(server):
        yield Listener(server.server_address[1], connected)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "0", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
     "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fd00::1]", "localhost", "LOCALHOST", "169.254.169.254", "[::]", "10.0.0.1", "[::127.0.0.1]",
     "127.0.0.1.", "127。0。0。1", "①②⑦.0.0.1"],
)  # fmt: skip
def test_a_host_on_a_private_network_is_refused_however_it_is_written(host: str, listener: Listener) -> None:
    [refused] = attempt(f"https://{host}:{listener.port}/")
    assert (refused.http_status, refused.error_class) == (None, "refused_address")
    assert listener.connected == []


def test_the_connection_goes_to_the_address_that_was_checked(names: Names, listener: Listener) -> None:
    names.answers["rebinding.example"] = [["127.0.0.2"], ["127.0.0.1"]]
    assert attempt(f"https://rebinding.example:{listener.port}/")[0].error_class == "tls"
    assert listener.connected == ["127.0.0.2"]


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("Upper.EXAMPLE", "upper.example"),
        ("dot.example.", "dot.example."),
        ("bücher.example", "xn--bcher-kva.example"),
        ("under_score.example", "under_score.example"),
        ("full\uff0ewidth.example", "full.width.example"),
        ("127.0.0.1\\.rebinding.example", "127.0.0.1"),
    ],
)
def test_the_name_that_is_checked_is_the_name_that_is_connected_to(written: str, host: str, names: Names, listener: Listener) -> None:
    """Neither the case nor the spelling of a name makes the client resolve it by itself, which finds nothing."""
    names.answers[host] = [["127.0.0.2"]]
    assert attempt(f"https://{written}:{listener.port}/")[0].error_class == ("tls" if host != "127.0.0.1" else "connection")
    assert listener.connected == (["127.0.0.2"] if host != "127.0.0.1" else [])


def test_a_name_that_resolves_differently_is_checked_again(names: Names, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "RESOLUTION_SECONDS", 0.0)
    names.answers["rebinding.example"] = [["127.0.0.2"], ["127.0.0.1"]]
    assert [a.error_class for a in attempt(f"https://rebinding.example:{listener.port}/", times=2)] == ["tls", "refused_address"]
    assert listener.connected == ["127.0.0.2"]


def test_one_private_address_among_public_ones_is_refused(names: Names, listener: Listener) -> None:
    names.answers["mixed.example"] = [["127.0.0.2", "10.0.0.1"]]
    assert attempt(f"https://mixed.example:{listener.port}/")[0].error_class == "refused_address"
    assert listener.connected == []


def test_every_public_address_is_tried(names: Names, listener: Listener) -> None:
    names.answers["two.example"] = [["127.0.0.2", "127.0.0.3"]]
    assert attempt(f"https://two.example:{listener.port}/")[0].error_class == "tls"
    assert listener.connected == ["127.0.0.2", "127.0.0.3"]


def test_what_may_have_arrived_at_one_address_is_not_sent_to_another(names: Names, listener: Listener) -> None:
    names.answers["two.example"] = [["127.0.0.2", "127.0.0.3"]]
    assert attempt(f"http://two.example:{listener.port}/", allow_private=True)[0].error_class == "connection"
    assert listener.connected == ["127.0.0.2"]


def test_a_name_whose_servers_do_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait(PATIENCE) and [])
    monkeypatch.setattr(requests, "ATTEMPT_SECONDS", 0.1)
    [given_up] = attempt("https://silent.example/")
    answered.set()
    assert (given_up.http_status, given_up.error_class) == (None, "timeout")


async def test_many_names_whose_servers_do_not_answer_delay_no_other(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        return (answered.wait(PATIENCE) and []) if host.startswith("silent") else resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def attempt_at(host: str) -> str | None:
        receiver = Receiver(f"http://{host}:{listener.port}/", allow_private=True)
        return (await receiver.attempt(delivery_to(receiver.url))).error_class

    silent = [asyncio.create_task(attempt_at(f"silent-{n}.example")) for n in range(300)]
    await asyncio.sleep(0)
    assert await attempt_at("127.0.0.2") == "connection"
    answered.set()
    assert await asyncio.gather(*silent) == ["dns"] * 300


def test_an_address_that_nobody_listens_at_is_a_failed_connection(names: Names) -> None:
    names.answers["away.example"] = [["127.0.0.2", "127.0.0.3"]]
    [failed] = attempt("http://away.example:1/", allow_private=True)
    assert failed.error_class == "connection"
    assert failed.latency < 15, "a duration, not a time"


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "http://example.com:8080/",
        "ftp://example.com/",
        "https:///path",
        "https://user@example.com/",
        "https://:secret@example.com/",
        "https://a:99999/",
        "https://a:22/",
        "https://a:80/",
        "https://a:1023/",
    ],
)
def test_a_url_that_is_not_https_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|[Pp]ort"):
        Receiver(url, allow_private=False)
    Receiver("https://a:1024/", allow_private=False)


def test_errors_do_not_reveal_which_names_a_private_network_has(names: Names) -> None:
    names.answers["inside.example"] = [["10.0.0.1"]]
    assert [attempt(url)[0].error_class for url in ("https://inside.example/", "https://nobody.invalid/")] == 2 * ["refused_address"]
    assert attempt("https://nobody.invalid/", allow_private=True)[0].error_class == "dns"


@pytest.mark.parametrize("network", ["127.0.0.2/32", "127.0.0.0/8"])
def test_further_networks_can_be_refused(network: str, names: Names, listener: Listener) -> None:
    names.answers["two.example"] = [["127.0.0.2"]]
    for allow_private in (False, True):
        [refused] = attempt(f"https://two.example:{listener.port}/", allow_private=allow_private, refused=network)
        assert refused.error_class == "refused_address"
    if network == "127.0.0.0/8":
        for host in ("[::ffff:127.0.0.2]", "0.0.0.0", "[::ffff:0.0.0.0]"):
            assert attempt(f"http://{host}:{listener.port}/", allow_private=True, refused=network)[0].error_class == "refused_address"
    names.answers["more.example"] = [["127.0.0.3", "127.0.0.2"]]
    assert attempt(f"https://more.example:{listener.port}/", refused=network)[0].error_class == "refused_address"
    assert listener.connected == []
    assert attempt(f"https://two.example:{listener.port}/", refused="127.0.0.3/32")[0].error_class == "tls"


async def test_the_settings_say_which_further_networks_are_refused(listener: Listener) -> None:
    settings = Settings(webhooks_allow_private_networks=True, webhooks_refused_networks=(ip_network("127.0.0.2/32"),))
    errors = []
    for host in ("127.0.0.2", "127.0.0.3"):
        delivery = delivery_to(f"http://{host}:{listener.port}/")
        errors.append((await Receiver.of(delivery, settings).attempt(delivery)).error_class)
    assert errors == ["refused_address", "connection"]
    assert listener.connected == ["127.0.0.3"]


def test_a_redirect_is_not_followed() -> None:
    with fake_receiver() as target, fake_receiver() as receiver:
        receiver.status, receiver.headers = 307, {"Location": target.url}
        [redirected] = attempt(receiver.url, allow_private=True)
        assert redirected.http_status == 307
        assert not redirected.succeeded
        assert target.received == []


def test_proxies_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_receiver() as proxy, fake_receiver() as receiver:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert attempt(receiver.url, allow_private=True)[0].succeeded
        assert proxy.received == []


def test_only_the_part_of_an_answer_that_is_kept_is_read() -> None:
    def endless(file: Any) -> None:
        file.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            file.write(b"x" * MAX_ANSWER_BYTES)

    with raw_receiver(endless) as url:
        [answered] = attempt(url, allow_private=True)
    assert answered.succeeded
    assert answered.body == "x" * 1024


def test_endless_headers_are_an_error() -> None:
    def endless(file: Any) -> None:
        file.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            file.write(b"x-name: " + b"x" * 1000 + b"\r\n")

    with raw_receiver(endless) as url:
        assert attempt(url, allow_private=True)[0].error_class == "invalid_response"


def test_a_compressed_answer_is_not_decompressed() -> None:
    with fake_receiver() as receiver:
        receiver.status, receiver.body, receiver.headers = 200, b"not really gzip", {"Content-Encoding": "gzip"}
        assert attempt(receiver.url, allow_private=True)[0].body == "not really gzip"


def test_an_answer_that_trickles_in_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "ATTEMPT_SECONDS", 0.3)

    def drip(file: Any) -> None:
        file.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            file.write(b"x")
            time.sleep(0.02)

    with raw_receiver(drip) as url:
        [given_up] = attempt(url, allow_private=True)
    assert given_up.error_class == "timeout"
    assert given_up.latency < 15, "the usual limit"


class TestTls:
    """The connection goes to the address, but the certificate must be for the name."""

    @pytest.fixture
    def receiver(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeReceiver]:
        self.authority = authority("receiver.example", tmp_path)
        self.asked_for: list[str | None] = []
        self.authority.server.sni_callback = lambda connection, name, context: self.asked_for.append(name)
        monkeypatch.setenv("SSL_CERT_FILE", str(self.authority.file))
        with fake_receiver(self.authority.server) as receiver:
            yield receiver

    def test_host_and_server_name_are_the_original_ones(self, receiver: FakeReceiver, names: Names) -> None:
        names.answers["receiver.example"] = [["127.0.0.1"]]
        [answered] = attempt(f"https://receiver.example:{receiver.port}/x", allow_private=True)
        assert answered.succeeded
        assert self.asked_for == ["receiver.example"]
        assert receiver.received[0].headers["host"] == f"receiver.example:{receiver.port}"

    def test_a_certificate_for_another_name_is_refused(self, receiver: FakeReceiver, names: Names) -> None:
        names.answers["other.example"] = [["127.0.0.1"]]
        assert attempt(f"https://other.example:{receiver.port}/", allow_private=True)[0].error_class == "tls"
        assert receiver.received == []

    def test_an_unknown_authority_is_refused(self, receiver: FakeReceiver, names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SSL_CERT_FILE")
        names.answers["receiver.example"] = [["127.0.0.1"]]
        assert attempt(f"https://receiver.example:{receiver.port}/", allow_private=True)[0].error_class == "tls"
        assert receiver.received == []


def test_what_a_receiver_sends_unprompted_is_not_taken_for_its_answer() -> None:
    def talkative(file: Any) -> None:
        file.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
        time.sleep(0.2)

    with raw_receiver(talkative) as url:
        assert [answered.http_status for answered in attempt(url, allow_private=True, times=3)] == [200, 200, 200]


@pytest.mark.parametrize(("headers", "connections"), [({}, 1), ({"Connection": "close"}, 5)], ids=["kept", "closed by the receiver"])
def test_connections_are_kept_for_the_next_webhook(headers: dict[str, str], connections: int) -> None:
    with fake_receiver() as receiver:
        receiver.status, receiver.body, receiver.headers = 200, b"ok", headers
        assert all(answered.succeeded for answered in attempt(receiver.url, allow_private=True, times=5))
        assert receiver.connections == connections
