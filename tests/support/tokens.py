"""Makes tests/support/tokens.json with PyJWT, an implementation that is not ours: keys of every
kind, as PEM and as a JWK set, and a token of each algorithm. Once, by hand:
`pip install 'pyjwt[crypto]'`, then `python tests/support/tokens.py`. The private halves are not kept."""

import base64
import hashlib
import hmac
import json
import pathlib

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

FAR = 4102444800  # 2100-01-01
CLAIMS = {"sub": "u1", "exp": FAR, "role": "producer", "organization_id": 42}


def public(key):
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, kind).decode()


def private(key):
    kind = serialization.PrivateFormat.PKCS8
    none = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, kind, none).decode()


def b64(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def by_hand(header, claims, secret, digest="sha256"):
    """What PyJWT refuses to make."""
    head, body = (b64(json.dumps(it).encode()) for it in (header, claims))
    signature = hmac.new(secret, f"{head}.{body}".encode(), digest).digest() if secret else b""
    return f"{head}.{body}.{b64(signature)}"


secret = "0123456789abcdef0123456789abcdef-a-secret-for-tests"
rsa_key, other_rsa = (rsa.generate_private_key(65537, 2048) for _ in range(2))
p256, p384, p521 = (ec.generate_private_key(c()) for c in (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1))
ed, other_ed = (ed25519.Ed25519PrivateKey.generate() for _ in range(2))
signers = {"HS": secret, "RS": rsa_key, "PS": rsa_key, "Ed": ed, "ES256": p256, "ES384": p384}


def token(algorithm, claims=CLAIMS, **more):
    key = signers.get(algorithm) or signers[algorithm[:2]]
    return jwt.encode(claims, key, algorithm=algorithm, **more)


def without(name):
    return {key: value for key, value in CLAIMS.items() if key != name}


algorithms = ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
algorithms += ["ES256", "ES384", "EdDSA"]
good = {algorithm: token(algorithm) for algorithm in algorithms}
head, body, signature = good["HS256"].split(".")
stranger = b64(json.dumps({**CLAIMS, "sub": "root"}).encode())


def jwk(key, kid, **more):
    name = jwt.algorithms
    if isinstance(key, rsa.RSAPrivateKey):
        found = name.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        found = name.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        found = name.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    found.pop("key_ops", None)
    return {**found, "kid": kid, **more}


jwks = {
    "keys": [
        jwk(rsa_key, "rsa", alg="RS256", use="sig"),
        jwk(other_rsa, "rsa-enc", use="enc"),
        jwk(p256, "p256"),
        jwk(p384, "p384"),
        jwk(p521, "p521"),
        jwk(ed, "ed"),
        {"kty": "oct", "kid": "oct", "k": b64(secret.encode())},
        {"kty": "new", "kid": "new"},
    ]
}

bad = {
    "expired": ("expired", token("HS256", {**CLAIMS, "exp": 1000})),
    "not yet valid": ("early", token("HS256", {**CLAIMS, "nbf": FAR - 1})),
    "without sub": ("claims", token("HS256", without("sub"))),
    "with an empty sub": ("claims", token("HS256", {**CLAIMS, "sub": ""})),
    "with a number for sub": ("claims", by_hand({"alg": "HS256"}, {**CLAIMS, "sub": 5}, secret.encode())),
    "without exp": ("claims", token("HS256", without("exp"))),
    "with a text for exp": ("claims", by_hand({"alg": "HS256"}, {**CLAIMS, "exp": "4102444800"}, secret.encode())),
    "with a text for nbf": ("claims", by_hand({"alg": "HS256"}, {**CLAIMS, "nbf": "0"}, secret.encode())),
    "with a text for channels": ("claims", token("HS256", {**CLAIMS, "channels": "a:*"})),
    "with channels that are no patterns": ("claims", token("HS256", {**CLAIMS, "channels": ["a*"]})),
    "with numbers for publish": ("claims", token("HS256", {**CLAIMS, "publish": [5]})),
    "with much info": ("claims", token("HS256", {**CLAIMS, "info": {"a": "x" * 1024}})),
    "of another secret": ("signature", jwt.encode(CLAIMS, "another-secret-another-secret-another", "HS256")),
    "of another RSA key": ("signature", jwt.encode(CLAIMS, other_rsa, "RS256")),
    "of another Ed25519 key": ("signature", jwt.encode(CLAIMS, other_ed, "EdDSA")),
    "alg none": ("malformed", by_hand({"alg": "none"}, CLAIMS, None)),
    "alg None": ("malformed", by_hand({"alg": "None"}, CLAIMS, None)),
    "alg none and a signature": ("malformed", f"{b64(json.dumps({'alg': 'none'}).encode())}.{body}.{signature}"),
    "no alg": ("malformed", by_hand({"typ": "JWT"}, CLAIMS, secret.encode())),
    "an unknown alg": ("malformed", by_hand({"alg": "HS999"}, CLAIMS, secret.encode())),
    "alg swapped to HS512": ("signature", by_hand({"alg": "HS512"}, CLAIMS, secret.encode())),
    "the public RSA key as a secret": ("signature", by_hand({"alg": "HS256"}, CLAIMS, public(rsa_key).encode())),
    "the public P-256 key as a secret": ("signature", by_hand({"alg": "HS256"}, CLAIMS, public(p256).encode())),
    "ES256 by a P-384 key's name": ("key", jwt.encode(CLAIMS, p256, "ES256", headers={"kid": "p384"})),
    "a critical header": ("malformed", by_hand({"alg": "HS256", "crit": ["b64"], "b64": True}, CLAIMS, secret.encode())),
    "other claims": ("signature", f"{head}.{stranger}.{signature}"),
    "no signature": ("signature", f"{head}.{body}."),
    "two parts": ("malformed", f"{head}.{body}"),
    "four parts": ("malformed", f"{head}.{body}.{signature}.{signature}"),
    "cut": ("signature", good["HS256"][:-5]),
    "cut in the claims": ("signature", f"{head}.{body[:-5]}.{signature}"),
    "empty": ("malformed", ""),
    "dots": ("malformed", ".."),
    "no JSON": ("malformed", f"{b64(b'hello')}.{body}.{signature}"),
    "claims that are no object": ("malformed", by_hand({"alg": "HS256"}, [1], secret.encode())),
    "a JWE": ("malformed", f"{b64(json.dumps({'alg': 'dir', 'enc': 'A256GCM'}).encode())}..a.b.c"),
}
bad["alg swapped to HS512"] = (
    "signature",
    f"{b64(json.dumps({'alg': 'HS512', 'typ': 'JWT'}).encode())}.{body}.{signature}",
)

p521_token = jwt.encode(CLAIMS, p521, "ES512")
named = {
    "rsa": jwt.encode(CLAIMS, rsa_key, "RS256", headers={"kid": "rsa"}),
    "p256": jwt.encode(CLAIMS, p256, "ES256", headers={"kid": "p256"}),
    "p384": jwt.encode(CLAIMS, p384, "ES384", headers={"kid": "p384"}),
    "ed": jwt.encode(CLAIMS, ed, "EdDSA", headers={"kid": "ed"}),
    "oct": jwt.encode(CLAIMS, secret, "HS256", headers={"kid": "oct"}),
}
unnamed = {
    "of nobody's name": jwt.encode(CLAIMS, ed, "EdDSA", headers={"kid": "gone"}),
    "of another's name": jwt.encode(CLAIMS, ed, "EdDSA", headers={"kid": "rsa"}),
    "of an algorithm that the key is not for": jwt.encode(CLAIMS, rsa_key, "RS384", headers={"kid": "rsa"}),
    "of a key that only encrypts": jwt.encode(CLAIMS, other_rsa, "RS256", headers={"kid": "rsa-enc"}),
}

subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "weir")])
import datetime

certificate = (
    x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(rsa_key.public_key())
    .serial_number(1).not_valid_before(datetime.datetime(2026, 1, 1)).not_valid_after(datetime.datetime(2100, 1, 1))
    .sign(rsa_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
)
weak = public(rsa.generate_private_key(65537, 1024))
out = {
    "secret": secret,
    "pem": {"rsa": public(rsa_key), "p256": public(p256), "p384": public(p384), "ed": public(ed)},
    "bad_pem": {
        "private": private(other_ed), "certificate": certificate, "weak": weak, "p521": public(p521),
    },
    "jwks": jwks,
    "good": good,
    "named": named,
    "unnamed": unnamed,
    "bad": {name: {"reason": reason, "token": it} for name, (reason, it) in bad.items()},
    "es512": p521_token,
    "issued": token("HS256", {**CLAIMS, "iss": "https://issuer.example", "aud": ["other", "weir"]}),
    "full": token("HS256", {
        **CLAIMS, "roles": ["admin", "viewer"], "info": {"name": "Ada"}, "channels": ["news:**"],
        "publish": ["news:in"], "tenant": "t-1", "flag": True, "half": 0.5, "list": ["x"], "object": {},
        "none": None, "exp": FAR + 0.5, "nbf": 1000.5, "iat": 1000,
    }),
}
path = pathlib.Path(__file__).with_name("tokens.json")
path.write_text(json.dumps(out, indent=1, sort_keys=True) + "\n")
