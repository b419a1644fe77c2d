"""Whose word counts about a client, and how far."""

from __future__ import annotations

import pytest

from ec2_facade.proxies import Origin, Proxies

PROXIES = Proxies(["10.0.0.0/24", "::1"])


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        # A client that makes its own history.
        ("198.18.0.1", ["10.9.9.9"], "198.18.0.1"),
        ("10.0.0.1", ["198.18.0.1"], "198.18.0.1"),
        ("10.0.0.1", ["6.6.6.6, 198.18.0.1"], "198.18.0.1"),
        ("10.0.0.1", ["6.6.6.6", "198.18.0.1, 10.0.0.2"], "198.18.0.1"),
        ("::1", ["2001:db8::5"], "2001:db8::5"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3"], "10.0.0.3"),
        ("10.0.0.1", ["nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["198.18.0.1, unknown, 10.0.0.2"], "10.0.0.2"),
    ],
)
def test_the_client_is_the_last_whom_nobody_trusts(peer: str, forwarded_for: list[str], address: str) -> None:
    assert PROXIES.origin(Origin(address=peer, secure=False), forwarded_for, []).address == address


@pytest.mark.parametrize(
    ("peer", "schemes", "secure"),
    [
        ("10.0.0.1", ["https"], True),
        ("10.0.0.1", ["https, http"], False),
        ("10.0.0.1", [], False),
        ("198.18.0.1", ["https"], False),
    ],
)
def test_tls_ends_where_a_proxy_says(peer: str, schemes: list[str], secure: bool) -> None:
    assert PROXIES.origin(Origin(address=peer, secure=False), [], schemes).secure is secure


def test_without_proxies_nobodys_word_counts() -> None:
    peer = Origin(address="127.0.0.1", secure=False)
    assert Proxies().origin(peer, ["198.18.0.1"], ["https"]) == peer
