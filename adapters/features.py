"""Frozen features: nothing is changed in the backbone, the head alone learns (the feature-based way of transfer).

Peters et al. 2019 (arXiv:1903.05987) compare it with fine-tuning. Where no adapter acts, the features of a text
are always the same, so that they can be computed once: ``--cache`` of ``adapt train``.
"""

from adaptdock.plugins.contracts import Method, Options, Parameter, Ports, Site


class FeaturesOptions(Options):
    """Options of ``features``: none."""


class Features(Method):
    """No change at all."""

    Options = FeaturesOptions
    options: FeaturesOptions

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act nowhere."""
        return ()

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Keep nothing."""
        return {}
