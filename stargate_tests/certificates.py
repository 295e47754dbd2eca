"""Certificates for the tests, made when they are first needed, and trusted by these tests alone."""

from __future__ import annotations

import atexit
import ssl
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificate:
    """The files of a certificate for this machine."""

    certfile: str
    keyfile: str
    #: Certificate and key in one file.
    both: str
    authority: str

    @property
    def settings(self) -> dict[str, str]:
        """What goes into ``[server:main]``."""
        return {"certfile": self.certfile, "keyfile": self.keyfile}


@lru_cache(maxsize=1)
def folder() -> tempfile.TemporaryDirectory:
    """Where they are until the process ends."""
    made = tempfile.TemporaryDirectory(prefix="stargate-tests-")
    atexit.register(made.cleanup)
    return made


def issue(*names: str, stem: str = "server", begins: datetime | None = None) -> Certificate:
    """A certificate for ``names``; one that ``begins`` at some time is valid for a day."""
    authority, path = trustme.CA(), Path(folder().name, stem)
    ends = None if begins is None else begins + timedelta(days=1)
    issued = authority.issue_cert(*names, not_before=begins, not_after=ends)
    files = [f"{path}.{kind}" for kind in ("crt", "key", "pem", "ca")]
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(files[0], append=number > 0)
    issued.private_key_pem.write_to_path(files[1])
    issued.private_key_and_cert_chain_pem.write_to_path(files[2])
    authority.cert_pem.write_to_path(files[3])
    return Certificate(*files)


@lru_cache(maxsize=1)
def certificate() -> Certificate:
    """The one of the servers that these tests start."""
    return issue("localhost", "127.0.0.1", "::1")


@lru_cache(maxsize=1)
def trust() -> ssl.SSLContext:
    """What a peer checks that certificate with."""
    context = ssl.create_default_context(cafile=certificate().authority)
    context.set_alpn_protocols(["http/1.1"])
    return context


@lru_cache(maxsize=1)
def trust_in_threads() -> ssl.SSLContext:
    """The same for a peer that reads and writes in two threads at once.

    OpenSSL does not allow for that. Where a session ticket of TLS 1.3 comes in while the request is
    sent, as it does behind every handshake, the request may never leave: one in some hundred did
    not, with other servers too. TLS 1.2 has nothing of the kind.
    """
    context = ssl.create_default_context(cafile=certificate().authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context
