"""Certificates of the tests, as C2PA asks for them."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = datetime.timedelta(days=1)
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class CertificateFiles(NamedTuple):
    """PEM files: a chain of the signing certificate and its root, and the keys of the two."""

    chain: Path
    key: Path
    other_key: Path


def write_certificate(folder: Path, *, is_rsa: bool = False, days: int = 30) -> CertificateFiles:
    """A new certificate that is valid for so many days from now, and its files in `folder`."""
    root_key = ec.generate_private_key(ec.SECP256R1())
    key: Key = (
        rsa.generate_private_key(65537, 2048) if is_rsa else ec.generate_private_key(ec.SECP256R1())
    )
    root = _root(root_key, days)
    leaf = (
        _builder("Signer of the tests", key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()),
            critical=False,
        )
        .sign(root_key, hashes.SHA256())
    )
    files = CertificateFiles(folder / "chain.pem", folder / "key.pem", folder / "other.pem")
    files.chain.write_bytes(
        b"".join(each.public_bytes(serialization.Encoding.PEM) for each in (leaf, root))
    )
    for path, private in ((files.key, key), (files.other_key, root_key)):
        path.write_bytes(_pem(private))
    return files


class TimestampFiles(NamedTuple):
    """PEM files of an authority: a chain of its certificate, of that `name`, and its root; its
    key."""

    chain: Path
    key: Path
    name: str


def write_timestamp_certificate(folder: Path) -> TimestampFiles:
    """A new certificate that may sign timestamps and nothing else."""
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    files = TimestampFiles(folder / "tsa.pem", folder / "tsa-key.pem", "Timestamps of the tests")
    leaf = (
        _builder(files.name, key, 30)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()),
            critical=False,
        )
        .sign(root_key, hashes.SHA256())
    )
    chain = (leaf, _root(root_key, 30))
    files.chain.write_bytes(
        b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain)
    )
    files.key.write_bytes(_pem(key))
    return files


def _root(key: Key, days: int) -> x509.Certificate:
    return (
        _builder("Root of the tests", key, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
        .sign(key, hashes.SHA256())
    )


def _pem(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _builder(subject: str, key: Key, days: int) -> x509.CertificateBuilder:
    until = datetime.datetime.now(datetime.UTC) + days * _DAY
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name("Root of the tests"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(until - 60 * _DAY)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common: str) -> x509.Name:
    attributes = ((NameOID.ORGANIZATION_NAME, "Tests"), (NameOID.COMMON_NAME, common))
    return x509.Name([x509.NameAttribute(*each) for each in attributes])


def _usage(*allowed: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in allowed for name in _USAGES})
