"""An identity provider for tests: discovery, a key set, signed tokens, rotation, and bad days."""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final, Self
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from sealbus_broker.gate.identities import Provider
from tests.client.certificates import Authority

AUDIENCE: Final = "sealbus:shop"
DISCOVERY: Final = "/.well-known/openid-configuration"
JWKS: Final = "/keys"
TOKEN: Final = "/token"
CLIENT: Final = ("order-client", "s3cr3t-of-order")

Signer = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | Ed25519PrivateKey
Respond = Callable[[BaseHTTPRequestHandler], None]


def new_key(algorithm: str) -> Signer:
    if algorithm == "EdDSA":
        return Ed25519PrivateKey.generate()
    if algorithm.startswith("ES"):
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, 2048)


def public_jwk(key: Signer, key_id: str, algorithm: str) -> dict[str, Any]:
    public: Any = key.public_key()
    kinds: dict[str, Any] = {"E": ECAlgorithm, "e": OKPAlgorithm}
    kind = OKPAlgorithm if algorithm == "EdDSA" else kinds.get(algorithm[0], RSAAlgorithm)
    made = dict(kind.to_jwk(public, as_dict=True))
    made.pop("key_ops", None)
    return {**made, "kid": key_id, "use": "sig", "alg": algorithm}


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Serves while a ``with`` block lasts."""

    def __init__(self, folder: Path, algorithm: str = "RS256") -> None:
        (place := folder / "idp").mkdir()
        self._authority = Authority(place)
        self.ca = self._authority.file
        self.algorithm = algorithm
        self.keys: dict[str, Signer] = {"one": new_key(algorithm)}
        """The keys by their names. The last one signs."""
        self.asked: list[str] = []
        """The paths of all requests."""
        self.faults: dict[str, Respond] = {}
        """What answers a path instead, where there is something."""
        self._count = 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer._serve(self)

            do_POST = do_GET  # noqa: N815  # the name that http.server calls

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """Say nothing, because many tests have clients that leave."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._authority.server("127.0.0.1"))
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        self.subject = "order"
        """Whom the token endpoint knows."""
        self.claims: dict[str, Any] = {}
        """Further claims of each token."""

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def provider(self, **fields: Any) -> Provider:
        given = {
            "name": "idp",
            "issuer": self.url,
            "audience": AUDIENCE,
            "algorithm": self.algorithm,
            "ca": str(self.ca),
        }
        return Provider(**{**given, **fields})

    def rotate(self, *, keep: bool = True) -> str:
        """Sign with a new key from now on. Returns its name."""
        if not keep:
            self.keys.clear()
        self._count += 1
        name = f"new-{self._count}"
        self.keys[name] = new_key(self.algorithm)
        return name

    def payload(self, subject: str = "order", **claims: Any) -> dict[str, Any]:
        now = int(time.time())
        self._count += 1
        return {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": subject,
            "iat": now,
            "exp": now + 300,
            "jti": str(self._count),
            **self.claims,
            **claims,
        }

    def token(self, subject: str = "order", **claims: Any) -> str:
        """A good token, with the given claims."""
        return self.signed(self.payload(subject, **claims))

    def signed(self, payload: dict[str, Any], **header: Any) -> str:
        key_id, key = list(self.keys.items())[-1]
        return jwt.encode(payload, key, algorithm=self.algorithm, headers={"kid": key_id, **header})

    def signed_raw(self, header: bytes, payload: bytes) -> str:
        """A token over any bytes, whose signature holds."""
        signed = f"{encode(header)}.{encode(payload)}"
        key: Any = list(self.keys.values())[-1]
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        return f"{signed}.{encode(algorithm.sign(signed.encode(), key))}"

    def header(self, **fields: Any) -> bytes:
        key_id = list(self.keys)[-1]
        return json.dumps({"alg": self.algorithm, "kid": key_id, **fields}).encode()

    def key_set(self) -> dict[str, Any]:
        return {"keys": [public_jwk(key, name, self.algorithm) for name, key in self.keys.items()]}

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path
        self.asked.append(path)
        if path in self.faults:
            self.faults[path](handler)
        elif path == DISCOVERY:
            document = {"issuer": self.url, "jwks_uri": self.url + JWKS}
            reply(handler, 200, json.dumps(document).encode())
        elif path == JWKS:
            reply(handler, 200, json.dumps(self.key_set()).encode())
        elif path == TOKEN:
            self._give_token(handler)
        else:
            reply(handler, 404, b"{}")

    def _give_token(self, handler: BaseHTTPRequestHandler) -> None:
        """The grant by client credentials (RFC 6749, section 4.4)."""
        length = int(handler.headers.get("Content-Length", "0"))
        fields = parse_qs(handler.rfile.read(length).decode())
        basic = base64.b64encode(":".join(CLIENT).encode()).decode()
        if handler.headers.get("Authorization") != f"Basic {basic}":
            reply(handler, 401, b'{"error": "invalid_client"}')
        elif fields.get("grant_type") != ["client_credentials"]:
            reply(handler, 400, b'{"error": "unsupported_grant_type"}')
        else:
            given = {
                "access_token": self.token(self.subject),
                "token_type": "Bearer",
                "expires_in": 300,
            }
            reply(handler, 200, json.dumps(given).encode())


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes, **fields: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in fields.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
