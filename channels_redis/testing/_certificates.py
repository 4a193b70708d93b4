"""Self-signed certificates for servers with TLS on 127.0.0.1."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

NAMES = "localhost", "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files of a self-signed certificate."""

    path: str
    key_path: str


def make_certificate(directory: Path, names: Iterable[str] = NAMES) -> Certificate:
    """Write a new key and its certificate, valid for a day, into ``directory``.

    ``names`` are its hosts, as names or addresses.
    """
    # Only servers with TLS need this extra.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    hosts = [
        x509.IPAddress(ipaddress.ip_address(host))
        if host[0].isdecimal() or ":" in host
        else x509.DNSName(host)
        for host in names
    ]
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "server.crt", directory / "server.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return Certificate(*map(str, paths))
