"""Providers out of their tables."""

from collections.abc import Mapping

from herd.gateway.provider import Provider
from herd.gateway.route import ProviderSpec


def build(spec: ProviderSpec, environ: Mapping[str, str]) -> Provider:
    """The provider, not yet connected. Raises HerdError (code "bad_provider") for an address that no provider may have,
    a secret that is not there, or a package that is missing."""
    # Imported here: one dialect need not cost the start the others' time.
    match spec.dialect:
        case "openai" | "anthropic":
            from herd.gateway.remote import Anthropic, OpenAI

            return (OpenAI if spec.dialect == "openai" else Anthropic)(spec, environ)
        case "any-llm":
            from herd.gateway.anyllm import AnyLLM

            return AnyLLM(spec, environ)
