"""/openapi.json says enough of every route that a program can call it."""

from fastapi.testclient import TestClient

from herd.protocol import anthropic, openai, responses

DIALECTS = {
    "/v1/chat/completions": openai.FIELDS["chat"],
    "/v1/completions": openai.FIELDS["completion"],
    "/v1/embeddings": openai.FIELDS["embedding"],
    "/v1/responses": responses.FIELDS["response"],
    "/v1/responses/input_tokens": responses.FIELDS["count"],
    "/v1/messages": anthropic.FIELDS["message"],
    "/v1/messages/count_tokens": anthropic.FIELDS["count"],
}
FILES = ("/api/arena/import",)  # the body is a file
WITHOUT_BODY = (
    "/api/reload",
    "/cancel",
    "/load",
    "/unload",
    "/rollback",
    "/revoke",
    "/seen",
    "/stored",
    "/regenerate",
)


def test_every_route_has_its_body_and_its_errors(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path, fields in DIALECTS.items():
        schema = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert set(schema["properties"]) == set(fields) and set(schema["required"]) <= set(fields)
    for path, operations in paths.items():
        for method, operation in operations.items():
            assert "default" in operation["responses"] and "422" not in operation["responses"]
            if method in ("post", "put", "patch") and not path.endswith((*WITHOUT_BODY, *FILES)):
                assert operation["requestBody"]["content"]["application/json"]["schema"]["properties"], path
    for path in FILES:
        assert set(paths[path]["post"]["requestBody"]["content"]) == {"application/octet-stream"}
    vote = paths["/api/votes"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert vote["required"] == ["a", "b"] and vote["properties"]["outcome"] == {"type": ["string", "null"]}


def test_what_is_required_is_missed(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        if "requestBody" in operations.get("post", {}) and "{" not in path and path not in FILES:
            schema = operations["post"]["requestBody"]["content"]["application/json"]["schema"]
            reply = client.post(path, json={})
            assert (reply.status_code == 400) >= bool(schema["required"]), path
