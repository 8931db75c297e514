"""Who may do what: the one place that says which scope a request needs."""

import re

from herd.errors import HerdError
from herd.gateway.keys import Principal

# The pages hold no data, and ask for the key.
PAGES = (
    "/", "/models", "/runs", "/traffic", "/conversations", "/routes", "/keys", "/arena", "/leaderboard", "/c/{id}"
)  # fmt: skip
OPEN_PATHS = frozenset({"/health", "/ready", "/api/session", "/favicon.ico", "/embed.js", *PAGES})
OPEN_FOLDERS = ("/web/", "/c/")

# Method, path, and the scopes of which one is enough; the first that fits. "key": any key will do. "use": a key for
# any route; the gateway checks the route's name, or the handler that what is asked for is the key's own.
RULES = [
    (re.compile(method), re.compile(path), frozenset(scopes.split()))
    for method, path, scopes in (
        (".*", r"/v1/.*", "use"),
        ("GET", r"/api/status|/openapi\.json", "key"),
        ("POST", r"/api/battles(/[^/]+/(turns|regenerate))?", "use:arena"),
        ("POST", r"/api/battles/stored", "read"),  # it shows what others have asked
        ("POST", r"/api/battles/embed", "use"),
        ("GET", r"/api/battles/[^/]+", "vote use:arena"),
        ("GET", r"/api/leaderboard(/[^/]+)?|/api/arena/agreement", "read use:arena"),
        ("POST", r"/api/votes|/api/battles/[^/]+/vote", "vote"),
        ("POST", r"/api/feedback", "vote use"),
        ("GET", r"/api/generations|/api/generations/[^/]+", "read use"),
        ("GET", r"/api/(conversations(/[^/]+)?|traffic|findings|votes)|/metrics", "read"),
    )
]
ADMIN = frozenset({"admin"})


def is_open(method: str, path: str) -> bool:
    """Whether a request needs no key."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS) or method == "OPTIONS"


def needed(method: str, path: str) -> frozenset[str]:
    """The scopes of which a request needs one; what no rule names is for an admin."""
    for methods, paths, scopes in RULES:
        if methods.fullmatch(method) and paths.fullmatch(path):
            return scopes
    return ADMIN


def refusal(principal: Principal, method: str, path: str) -> HerdError | None:
    """The error that names the scope that is missing, if one is."""
    scopes = needed(method, path)
    if any(has(principal, scope) for scope in scopes):
        return None
    named = " or ".join("use:<route>" if scope == "use" else scope for scope in sorted(scopes))
    return HerdError(
        f"this key may not do that: it lacks the scope {named}", status=403, code="missing_scope"
    )


def has(principal: Principal, scope: str) -> bool:
    if scope == "use" and any(own.startswith("use:") for own in principal.scopes):
        return True
    return scope == "key" or principal.may(scope)
