# SPDX-License-Identifier: Apache-2.0
"""`tls_context`: the flags `--ssl-…` -> what a listening socket speaks TLS with, or an error naming one."""

from __future__ import annotations

import ssl

from sgl_runtime.config import ServeConfig, flag_of
from sgl_runtime.errors import ConfigError

# RFC 9113 forbids the older ones of TLS 1.2 to HTTP/2; those of TLS 1.3 are not chosen here.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def tls_context(config: ServeConfig) -> ssl.SSLContext | None:
    """None without TLS. Raises ConfigError for files that are missing, unreadable, or do not fit together."""
    certfile, keyfile, ca_certs = config.ssl_certfile, config.ssl_keyfile, config.ssl_ca_certs
    if certfile is None:
        for name in ("ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs"):
            if getattr(config, name) is not None:
                raise ConfigError(f"{flag_of(name)} goes with --ssl-certfile: give both")
        return None
    for name, path in (("certfile", certfile), ("keyfile", keyfile), ("ca-certs", ca_certs)):
        if path is not None:
            _check_readable(f"--ssl-{name}", path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["h2", "http/1.1"])
    asked: list[str] = []

    def password() -> str:
        asked.append(certfile)  # without this function OpenSSL would ask the terminal
        return config.ssl_keyfile_password or ""

    try:
        context.load_cert_chain(certfile, keyfile, password)
    except ssl.SSLError as error:
        raise ConfigError(_fault(config, error, encrypted=bool(asked))) from None
    if ca_certs is not None:
        try:
            context.load_verify_locations(ca_certs)
        except ssl.SSLError:
            raise ConfigError(f"--ssl-ca-certs {ca_certs} holds no certificates in PEM format") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check_readable(flag: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{flag} {path} cannot be read: {error.strerror}") from None


def _fault(config: ServeConfig, error: ssl.SSLError, *, encrypted: bool) -> str:
    where = config.ssl_keyfile or config.ssl_certfile
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"--ssl-certfile {config.ssl_certfile} does not belong to the key in {where}"
    if encrypted:
        wrong = "is not its password" if config.ssl_keyfile_password else "is not given"
        return f"the key in {where} is encrypted, and --ssl-keyfile-password {wrong}"
    remedy = "give a chain of certificates and its private key, both in PEM format"
    return f"--ssl-certfile {config.ssl_certfile} and the key in {where} cannot be used: {remedy}"
