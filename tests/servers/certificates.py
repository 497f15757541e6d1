"""Certificates for servers and their clients, made by the command `openssl`."""

import subprocess
from pathlib import Path

from tests.servers.redis import require

__all__ = ["Authority"]


class Authority:
    """An authority of one's own; its files are in a folder, in PEM."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        require("openssl")
        self._folder = folder
        self.file, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        self._make(
            *("-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign"),
            *("-addext", "basicConstraints=critical,CA:TRUE"),
            *("-keyout", str(self._key), "-out", str(self.file)),
        )

    def issue(self, name: str, alternative: str = "") -> tuple[Path, Path]:
        """Make a certificate and its key, for a server with its names, as DNS:localhost."""
        file, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        self._make(
            *("-subj", f"/CN={name}", "-CA", str(self.file), "-CAkey", str(self._key)),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
            *(("-addext", f"subjectAltName={alternative}") if alternative else ()),
            *("-keyout", str(key), "-out", str(file)),
        )
        return file, key

    def _make(self, *arguments: str) -> None:
        # Without a configuration, so that nothing is in a certificate but what is asked for.
        configuration = self._folder / "openssl.cnf"
        configuration.write_text("[req]\ndistinguished_name = name\n[name]\n")
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-config", str(configuration), "-days", "2"),
                *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
                *arguments,
            ],
            check=True,
            capture_output=True,
        )
