"""TLS: the certificate and private key of a server, checked before a model is opened."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resq_onnx.errors import ResqError


@dataclass(frozen=True)
class Tls:
    """Two files in PEM format, which may be one.

    Attributes:
        certificate: The certificate, and those that lead from it to a root.
        key: Its private key, not encrypted.
    """

    certificate: Path
    key: Path

    @classmethod
    def of(cls, certificate: Path | None, key: Path | None) -> Tls | None:
        """Both files or neither, checked.

        Raises:
            ResqError: One of them is missing, cannot be read, or does not belong to the other.
        """
        if certificate is None and key is None:
            return None
        if certificate is None or key is None:
            missing = "--tls-key" if key is None else "--tls-certificate"
            raise ResqError(f"TLS needs a certificate and its private key: give {missing}, too")
        found = cls(certificate, key)
        found._check()
        return found

    def options(self) -> dict[str, Any]:
        """The options of uvicorn."""
        return {"ssl_certfile": self.certificate, "ssl_keyfile": self.key}

    def _check(self) -> None:
        for path in (self.certificate, self.key):
            try:
                path.read_bytes()
            except OSError as error:
                raise ResqError(f"{path}: {error.strerror}; name a file in PEM format") from None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key, self._refuse_password)
        except ssl.SSLError as error:
            raise ResqError(
                f"{self.certificate} and {self.key} are not a certificate and its private key in "
                f"PEM format ({error.reason or 'no PEM lines'})"
            ) from None

    def _refuse_password(self) -> str:
        raise ResqError(
            f"{self.key}: the private key is encrypted; give one that is not, and that only the "
            f"server's user can read"
        )
