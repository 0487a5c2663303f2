"""HTTPS, with a certificate made here, and files that are not one."""

from __future__ import annotations

import http.client
import ssl
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.serving.tls import Tls
from tests.command_line import error_line, run
from tests.needed import program_of
from tests.serving.served import served


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    return make_pair(tmp_path_factory.mktemp("tls"))


def make_pair(folder: Path) -> Tls:
    found = Tls(folder / "certificate.pem", folder / "key.pem")
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc",
            "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
            "-keyout", found.key, "-out", found.certificate)  # fmt: skip
    return found


def openssl(*arguments: object) -> None:
    command = [program_of("openssl"), *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


def test_requests_are_answered_over_https_alone(folder: Path, tmp_path: Path, pair: Tls) -> None:
    options = ("--tls-certificate", pair.certificate, "--tls-key", pair.key)
    with served(folder, tmp_path / "log.txt", *options) as server:
        assert server.url.startswith("https://127.0.0.1:")
        address = urlsplit(server.url)
        assert address.hostname is not None
        trusting = ssl.create_default_context(cafile=pair.certificate)
        connection = http.client.HTTPSConnection(
            address.hostname, address.port, timeout=60, context=trusting
        )
        connection.request("GET", "/v1/models")
        assert connection.getresponse().status == 200
        connection.close()
        plain = server.connect()
        plain.request("GET", "/v1/models")
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            plain.getresponse()
        plain.close()


def test_one_file_without_the_other_is_refused(folder: Path, pair: Tls) -> None:
    for option, path, missing in (
        ("--tls-certificate", pair.certificate, "--tls-key"),
        ("--tls-key", pair.key, "--tls-certificate"),
    ):
        result = run("serve", folder, option, path)
        assert result.exit_code == 1
        assert f"give {missing}" in error_line(result.stderr).replace("\n", " ")


def test_files_that_cannot_be_used_are_refused_by_name(tmp_path: Path, pair: Tls) -> None:
    other = make_pair(tmp_path)
    (text := tmp_path / "text.pem").write_text("no PEM")
    for certificate, key, reason in (
        (tmp_path / "absent.pem", pair.key, "absent.pem: No such file"),
        (pair.certificate, tmp_path, f"{tmp_path}: Is a directory"),
        (text, pair.key, "are not a certificate and its private key"),
        (pair.certificate, text, "are not a certificate and its private key"),
        (pair.certificate, other.key, "KEY_VALUES_MISMATCH"),
    ):
        with pytest.raises(ResqError, match=reason):
            Tls.of(certificate, key)


def test_an_encrypted_key_is_refused_without_asking_for_its_password(
    tmp_path: Path, pair: Tls
) -> None:
    locked = tmp_path / "locked.pem"
    openssl("pkcs8", "-topk8", "-in", pair.key, "-out", locked, "-passout", "pass:word")
    with pytest.raises(ResqError, match=r"locked\.pem: the private key is encrypted"):
        Tls.of(pair.certificate, locked)


def test_no_file_is_plain_http() -> None:
    assert Tls.of(None, None) is None
