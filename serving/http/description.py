"""The OpenAPI description, with the tokens that requests need."""

from typing import Any

from fastapi import FastAPI

from adaptdock.serving.http.authorization import scope_of

SCHEME = "token"


def describe_tokens(app: FastAPI) -> None:
    """Add the bearer token and the scope of each operation to the description."""
    plain = app.openapi

    def description() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        schema = plain()
        scheme = {"type": "http", "scheme": "bearer", "description": "adapt serve --new-token makes a token."}
        schema.setdefault("components", {})["securitySchemes"] = {SCHEME: scheme}
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                scope = scope_of(method.upper(), path)
                if scope is not None:
                    operation["security"] = [{SCHEME: []}]
                    text = f"{operation.get('description', '')}\n\nNeeds a token with the scope {scope}."
                    operation["description"] = text.strip()
        return schema

    app.openapi = description  # type: ignore[method-assign]
