"""What tests of publishing share."""

from collections.abc import Callable

from adaptdock.hub.registry.publishing import Published

Publish = Callable[..., Published]
