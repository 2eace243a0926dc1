"""The HTTP application: routes, middleware, authorization, the process."""
