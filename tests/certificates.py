"""Certificates for tests, made anew each time: an authority, and what it signs for a broker and its clients."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID


class Authority:
    """`certificate` is its own, in PEM; `issue` signs others."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._signed = _builder(name, name, self._key.public_key(), authority=True).sign(self._key, hashes.SHA256())
        self.certificate = directory / f"{name}.pem"
        self.certificate.write_bytes(self._signed.public_bytes(serialization.Encoding.PEM))

    def issue_pkcs12(self, name: str, password: str) -> Path:
        """The same as a PKCS #12 store, which both Java and librdkafka read."""
        key = ec.generate_private_key(ec.SECP256R1())
        signed = _builder(name, self._name, key.public_key(), authority=False).sign(self._key, hashes.SHA256())
        path = self._directory / f"{name}-of-{self._name}.p12"
        encryption = serialization.BestAvailableEncryption(password.encode())
        path.write_bytes(pkcs12.serialize_key_and_certificates(name.encode(), key, signed, None, encryption))
        return path

    def issue(self, name: str, password: str | None = None) -> Path:
        """A file with a private key (PKCS #8, encrypted with `password`) and its certificate for the loopback."""
        key = ec.generate_private_key(ec.SECP256R1())
        signed = _builder(name, self._name, key.public_key(), authority=False).sign(self._key, hashes.SHA256())
        path = self._directory / f"{name}-of-{self._name}.pem"
        encryption = (
            serialization.NoEncryption()
            if password is None
            else serialization.BestAvailableEncryption(password.encode())
        )
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
        return path


def _builder(name: str, issuer: str, key: ec.EllipticCurvePublicKey, authority: bool) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    )
