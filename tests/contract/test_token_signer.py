"""What every TokenSigner refuses: forged, foreign, changed and ended tokens."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey

from hubbub_server.adapters.crypto.jose_token_signer import JoseTokenSigner
from hubbub_server.domain.errors import BadCredentials, CredentialsExpired
from hubbub_server.domain.ids import DeviceSessionId, TopicId, UserId
from hubbub_server.ports.credentials import AccessClaims
from tests.support.fakes.clock import FakeClock

SIGNING_KEY = Ed25519PrivateKey.generate()
SESSION = DeviceSessionId("d1")


def make_signer(clock: FakeClock, **changes: Any) -> JoseTokenSigner:
    given: dict[str, Any] = {
        "signing_key": SIGNING_KEY,
        "refresh_key": b"k" * 32,
        "issuer": "hubbub",
        "audience": "hubbub",
        "clock": clock,
    }
    return JoseTokenSigner(**(given | changes))


def claims_at(clock: FakeClock, ttl_s: int = 600) -> AccessClaims:
    return AccessClaims(
        user_id=UserId(TopicId("u1")),
        device_session_id=SESSION,
        generation=3,
        expire_time_ms=clock.now_ms() + ttl_s * 1000,
    )


def encode(part: object) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode(part: str) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=="))
    return decoded


def resign(token: str, *, header: dict[str, Any] | None = None, payload: dict[str, Any] | None = None) -> str:
    """Signs other content with the right key, as a bug or an older version of ours would."""
    head, body, _ = token.split(".")
    return jwt.encode(
        decode(head) | (header or {}),
        {name: value for name, value in (decode(body) | (payload or {})).items() if value is not None},
        OKPKey.import_key(SIGNING_KEY),
        algorithms=["Ed25519"],
    )


def test_a_signed_token_says_what_was_signed() -> None:
    clock = FakeClock()
    signer = make_signer(clock)
    assert signer.verify(signer.sign(claims_at(clock))) == claims_at(clock)


def test_a_token_names_algorithm_type_and_key() -> None:
    clock = FakeClock()
    header = decode(make_signer(clock).sign(claims_at(clock)).split(".")[0])
    assert header["alg"] == "Ed25519"
    assert header["typ"] == "at+jwt"
    assert header["kid"]


def test_an_ended_token_is_expired_to_the_second_and_a_forged_ended_one_is_only_bad() -> None:
    clock = FakeClock()
    signer = make_signer(clock)
    token = signer.sign(claims_at(clock))
    forged = make_signer(clock, signing_key=Ed25519PrivateKey.generate()).sign(claims_at(clock))
    clock.advance(599)
    signer.verify(token)
    clock.advance(1)
    with pytest.raises(CredentialsExpired):
        signer.verify(token)
    with pytest.raises(BadCredentials) as refused:
        signer.verify(forged)
    assert type(refused.value) is BadCredentials


def test_a_token_of_a_node_whose_clock_is_five_minutes_ahead_is_good_and_six_minutes_are_not() -> None:
    """Found by `make chaos ONLY="clock three minutes behind"`: such a node told everybody to sign in again."""
    ahead = FakeClock()
    here = make_signer(FakeClock())
    ahead.advance(300)
    here.verify(make_signer(ahead).sign(claims_at(ahead)))
    ahead.advance(1)
    with pytest.raises(BadCredentials):
        here.verify(make_signer(ahead).sign(claims_at(ahead)))


@pytest.mark.parametrize(
    "changes",
    [{"signing_key": Ed25519PrivateKey.generate()}, {"issuer": "another"}, {"audience": "another"}],
    ids=["key", "issuer", "audience"],
)
def test_a_token_of_another_signer_is_refused(changes: dict[str, Any]) -> None:
    clock = FakeClock()
    with pytest.raises(BadCredentials):
        make_signer(clock).verify(make_signer(clock, **changes).sign(claims_at(clock)))


@pytest.mark.parametrize(
    "payload",
    [
        {"sub": "c1"},
        {"sub": None},
        {"sid": None},
        {"gen": None},
        {"gen": "3"},
        {"exp": None},
        {"nbf": None},
        {"iat": None},
        {"aud": None},
        {"aud": ["another"]},
        {"iss": None},
        {"exp": "tomorrow"},
    ],
)
def test_a_token_without_a_claim_we_need_is_refused(payload: dict[str, Any]) -> None:
    clock = FakeClock()
    signer = make_signer(clock)
    with pytest.raises(BadCredentials):
        signer.verify(resign(signer.sign(claims_at(clock)), payload=payload))


@pytest.mark.parametrize("header", [{"typ": "JWT"}, {"kid": "another"}, {"crit": ["x"], "x": 1}])
def test_a_token_of_another_kind_is_refused(header: dict[str, Any]) -> None:
    """An ID token, or one of a key that we do not have, is no access token."""
    clock = FakeClock()
    signer = make_signer(clock)
    token = signer.sign(claims_at(clock))
    with pytest.raises(BadCredentials):
        signer.verify(resign_any(token, header) if "crit" in header else resign(token, header=header))


def resign_any(token: str, header: dict[str, Any]) -> str:
    head, body, _ = token.split(".")
    signed = f"{encode(decode(head) | header)}.{body}"
    return f"{signed}.{encode(SIGNING_KEY.sign(signed.encode()))}"


def test_the_header_does_not_choose_the_algorithm() -> None:
    """TRAPS 8.1: neither none, nor HMAC with the public key as secret, nor the key in the header."""
    clock = FakeClock()
    signer = make_signer(clock)
    token = signer.sign(claims_at(clock))
    head, body, signature = token.split(".")
    public_pem = SIGNING_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    intruder = OKPKey.generate_key("Ed25519")
    forged = [
        f"{encode(decode(head) | {'alg': 'none'})}.{body}.",
        f"{encode(decode(head) | {'alg': 'none'})}.{body}.{signature}",
        jwt.encode(
            decode(head) | {"alg": "HS256"}, decode(body), OctKey.import_key(public_pem.hex()), algorithms=["HS256"]
        ),
        jwt.encode(
            decode(head) | {"jwk": intruder.as_dict(private=False)}, decode(body), intruder, algorithms=["Ed25519"]
        ),
    ]
    for each in forged:
        with pytest.raises(BadCredentials):
            signer.verify(each)


def test_no_changed_character_of_a_token_goes_unnoticed() -> None:
    clock = FakeClock()
    signer = make_signer(clock)
    token = signer.sign(claims_at(clock))
    for place in range(len(token) - 1):  # the last one holds bits that base64 ignores
        changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        with pytest.raises(BadCredentials):
            signer.verify(changed)


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "Bearer x", "é.é.é", "\x00", "x" * 200_000])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(BadCredentials):
        make_signer(FakeClock()).verify(token)


def test_a_refresh_token_names_its_session_and_is_always_the_same() -> None:
    signer = make_signer(FakeClock())
    token = signer.refresh_token(SESSION, 7)
    assert signer.read_refresh_token(token) == (SESSION, 7)
    assert token == signer.refresh_token(SESSION, 7)
    assert token != signer.refresh_token(SESSION, 8)
    assert len(token) <= 512


def test_no_changed_character_of_a_refresh_token_goes_unnoticed() -> None:
    signer = make_signer(FakeClock())
    token = signer.refresh_token(SESSION, 7)
    for place in range(len(token) - 1):
        changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        with pytest.raises(BadCredentials):
            signer.read_refresh_token(changed)


@pytest.mark.parametrize("token", ["", "A", "====", "é", "x" * 513, "x" * 512, "AAAA"])
def test_what_is_no_refresh_token_is_refused(token: str) -> None:
    with pytest.raises(BadCredentials):
        make_signer(FakeClock()).read_refresh_token(token)


def test_a_refresh_token_of_another_key_is_refused() -> None:
    other = make_signer(FakeClock(), refresh_key=b"o" * 32)
    with pytest.raises(BadCredentials):
        make_signer(FakeClock()).read_refresh_token(other.refresh_token(SESSION, 1))
