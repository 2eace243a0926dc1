"""``adapt sign``: the provenance of an adapter file, and a bundle of OpenSSF Model Signing."""

from pathlib import Path
from shlex import quote

import click

from adaptdock.cli.common.output import note, show_pairs
from adaptdock.cli.common.parameters import ADAPTER
from adaptdock.errors import UsageError
from adaptdock.hub.registry.model_bundle import sign_bundle
from adaptdock.hub.registry.provenance import sign_provenance


@click.command("sign")
@click.argument("file", type=ADAPTER)
@click.option("--key", metavar="KEY", help="Key of adapt key new: sign the provenance, FILE.intoto.jsonl.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="PEM",
    help="Private key on an elliptic curve: write a bundle of OpenSSF Model Signing, FILE.sig.",
)
def command(file: Path, key: str | None, bundle: Path | None) -> None:
    """Sign an adapter FILE, in files beside it.

    The provenance has the arguments of the training, the hashes of its data, and the versions of the libraries, in the
    form of in-toto and SLSA. adapt verify FILE checks it. A bundle is checked by the command model_signing.
    """
    if key is None and bundle is None:
        raise UsageError("say what to sign: --key KEY for the provenance, --bundle PEM for a bundle, or both")
    pairs = {}
    if key is not None:
        pairs["provenance"] = str(sign_provenance(file, key))
    if bundle is not None:
        path = sign_bundle(file, bundle)
        pairs["bundle"] = str(path)
        places = f"{quote(str(file))} --signature {quote(str(path))}"
        note(f"to verify the bundle: model_signing verify key {places} --public_key PUBLIC-PEM")
    show_pairs(pairs)
