"""Asks a gateway over TLS through OpenSSL: TLS 1.2 and 1.3, the protocol inside, and whether a
session is resumed. Prints `ok` at the end."""

import socket
import ssl
import sys


def ask(context, port, session=None):
    plain = socket.create_connection(("127.0.0.1", port), 30)
    with context.wrap_socket(plain, server_hostname="localhost", session=session) as stream:
        stream.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        # Raises where the end is not told in TLS.
        while some := stream.recv(4096):
            answer += some
        found = (stream.version(), stream.selected_alpn_protocol(), stream.session_reused)
        return answer, found, stream.session


def main(port, certificate):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=certificate)
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2", "http/1.1"])
        # Else an end that is not told is taken for one that is.
        context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        name = {771: "TLSv1.2", 772: "TLSv1.3"}[version]
        answer, found, session = ask(context, port)
        if not answer.startswith(b"HTTP/1.1 200 ") or found != (name, "http/1.1", False):
            sys.exit(f"first, {name}: {answer!r} {found}")
        answer, found, _ = ask(context, port, session)
        if not answer.startswith(b"HTTP/1.1 200 ") or found != (name, "http/1.1", True):
            sys.exit(f"again, {name}: {answer!r} {found}")
    old = ssl.create_default_context(cafile=certificate)
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    try:
        ask(old, port)
        sys.exit("TLS 1.1 is spoken")
    except ssl.SSLError:
        pass
    print("ok", flush=True)


main(int(sys.argv[1]), sys.argv[2])
