"""Keys as files: what an operator, or `hubbub up`, puts into the folder of secrets."""

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


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
