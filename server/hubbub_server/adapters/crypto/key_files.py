"""Keys as files: what an operator, or `hubbub up`, puts into the folder of secrets.

signing_key.pem is an Ed25519 key; refresh_key and id_key are hex, 128 bits or more.
"""

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hubbub_server.adapters.crypto.jose_token_signer import JoseTokenSigner
from hubbub_server.ports.clock import Clock


def read_signer(folder: Path, *, issuer: str, audience: str, clock: Clock) -> JoseTokenSigner:
    """Reads the keys of tokens. Raises what `read_signing_key` and `read_key` raise."""
    return JoseTokenSigner(
        signing_key=read_signing_key(folder / "signing_key.pem"),
        refresh_key=read_key(folder / "refresh_key"),
        issuer=issuer,
        audience=audience,
        clock=clock,
    )


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """Reads a private key in PEM.

    Raises:
        OSError: there is no such file.
        ValueError: it holds no Ed25519 key.
    """
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path} holds no Ed25519 key")
    return key


def read_key(path: Path) -> bytes:
    """Reads a symmetric key in hex.

    Raises:
        OSError: there is no such file.
        ValueError: it holds no hex, or less than 128 bits.
    """
    key = bytes.fromhex(path.read_text().strip())
    if len(key) < 16:
        raise ValueError(f"{path} is shorter than 128 bits")
    return key
