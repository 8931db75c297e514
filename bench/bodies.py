"""Good request bodies of each dialect, which tests and bench/abuse.py change."""

from typing import Any

USER = [{"role": "user", "content": "Tell me a story."}]
CALL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look something up.",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]},
    },
}
GOOD: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {"model": "cria", "messages": USER, "max_tokens": 4, "temperature": 0.5, "seed": 1, "n": 2},
        {"model": "cria", "messages": USER, "max_completion_tokens": 4, "stream": True, "stop": ["a", "b"],
         "stream_options": {"include_usage": True}, "logprobs": True, "top_logprobs": 2},
        {"model": "cria", "messages": [{"role": "system", "content": "Be brief."}, *USER], "max_tokens": 8,
         "tools": [CALL], "tool_choice": "auto", "parallel_tool_calls": False, "user": "u", "metadata": {"a": "b"}},
        {"model": "cria", "messages": USER, "max_tokens": 30, "frequency_penalty": 0.5, "presence_penalty": 0.5,
         "logit_bias": {"5": -100}, "response_format": {"type": "json_schema", "json_schema": {
             "name": "x", "schema": {"type": "object", "properties": {"a": {"type": "integer"}},
                                     "required": ["a"], "additionalProperties": False}}}},
    ],
    "/v1/completions": [
        {"model": "cria", "prompt": "Once upon a time", "max_tokens": 4, "echo": True, "logprobs": 2},
        {"model": "cria", "prompt": [1, 2, 3], "max_tokens": 4, "stream": True, "top_p": 0.9, "best_of": 1},
    ],
    "/v1/embeddings": [{"model": "cria", "input": ["a dog", "a cat"], "encoding_format": "float"}],
    "/v1/responses": [
        {"model": "cria", "input": "Tell me a story.", "max_output_tokens": 16, "store": False, "temperature": 0.5},
        {"model": "cria", "instructions": "Be brief.", "input": USER, "max_output_tokens": 16, "stream": True,
         "tools": [{"type": "function", **CALL["function"]}], "tool_choice": "none", "metadata": {"a": "b"}},
    ],
    "/v1/responses/input_tokens": [{"model": "cria", "instructions": "Be brief.", "input": "Tell me a story."}],
    "/v1/messages": [
        {"model": "cria", "max_tokens": 4, "messages": USER, "system": "Be brief.", "stop_sequences": ["x"]},
        {"model": "cria", "max_tokens": 4, "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
         "stream": True, "tools": [{"name": "look", "input_schema": CALL["function"]["parameters"]}]},
    ],
    "/v1/messages/count_tokens": [{"model": "cria", "messages": USER}],
}  # fmt: skip
