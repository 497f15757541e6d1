"""TLS as a URL asks for it."""

import ssl
from typing import Any

from asyafw.exceptions import ConfigurationError
from asyafw_redis._options import Options

__all__ = ["context", "secured"]


def context(options: Options) -> ssl.SSLContext:
    """Make what decides whom to trust: the authorities of `ca_file`, or else the system's.

    It is made for each connection, because the files of short-lived certificates are replaced.

    Raises:
        ConfigurationError: a file cannot be read, or does not hold what it should.
    """
    authorities = _readable(options.ca_file, "ca_file")
    certificate = _readable(options.cert_file, "cert_file")
    key = _readable(options.key_file, "key_file")
    try:
        made = ssl.create_default_context(cafile=authorities)
    except ssl.SSLError as error:
        raise ConfigurationError(f"ca_file={authorities} holds no certificate in PEM") from error
    made.check_hostname = options.verify == "full"
    if options.verify == "none":
        made.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        try:
            # Without a password in place, OpenSSL would ask the terminal for one.
            made.load_cert_chain(certificate, key, password="")
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"cert_file={certificate} and key_file={key or certificate} do not hold "
                "a certificate and its key, in PEM and not encrypted"
            ) from error
    return made


def secured(connection_class: Any, options: Options) -> Any:
    """Make a class of redis-py's, for an event loop or for threads, use a context of ours.

    Its own trusts the system's authorities even if it is given others.
    """

    class Secured(connection_class):  # type: ignore[misc]  # it is known only at run time
        def _connection_arguments(self) -> dict[str, Any]:
            return {"host": self.host, "port": self.port, "ssl": context(options)}

        def _wrap_socket_with_ssl(self, sock: Any) -> ssl.SSLSocket:
            return context(options).wrap_socket(sock, server_hostname=self.host)

    return Secured


def _readable(file: str | None, option: str) -> str | None:
    if file is not None:
        try:
            with open(file, "rb"):  # noqa: PTH123 — as a test of whether it can be
                pass
        except OSError as error:
            raise ConfigurationError(f"{option}={file} cannot be read: {error.strerror}") from error
    return file
