"""The signature of an adapter file in the form of OpenSSF Model Signing: a Sigstore bundle beside the file.

The bundle is written by the library ``model-signing`` with a private key on an elliptic curve, without the network. Its
own command verifies it: ``model_signing verify key FILE --signature FILE.sig --public_key KEY.pub``.
"""

from pathlib import Path

from adaptdock.errors import FileError, UsageError
from adaptdock.hub.artefact.atomic import write_atomically
from adaptdock.hub.artefact.file import read_header
from adaptdock.plugins.regular import read_regular

SUFFIX = ".sig"
EXTRA = "pip install 'adaptdock[model-signing]'"
CURVES = ("secp256r1", "secp384r1", "secp521r1")
HOW = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem"


def sign_bundle(file: Path, key: Path) -> Path:
    """Sign an adapter file with the private key in a PEM file, and return the path of the bundle beside the file.

    Raises :class:`FileError` for a file that is not an adapter or cannot be read, and :class:`UsageError` for a key
    that is not on one of the curves P-256, P-384 and P-521, or has a password, and where the library is not installed.
    """
    try:
        from model_signing import hashing, signing
    except ImportError:
        raise UsageError(f"a bundle of OpenSSF Model Signing needs model-signing: {EXTRA}") from None
    read_header(file)
    _check_key(key)
    path = file.with_name(file.name + SUFFIX)
    trial = path.with_name(f".{path.name}.new")
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=key)
        config.set_hashing_config(hashing.Config()).sign(file, trial)
        write_atomically(path, trial.read_bytes())
    except OSError as error:
        raise FileError(path, f"it could not be written: {error.strerror or error}") from error
    finally:
        trial.unlink(missing_ok=True)
    return path


def _check_key(file: Path) -> None:
    """Refuse what the library cannot sign with, whose own errors name neither the file nor a way out."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(read_regular(file), password=None)
    except OSError as error:
        raise FileError(file, f"the key cannot be read: {error.strerror or error}; {HOW} makes one") from None
    except TypeError:  # the library's error for a key that needs a password
        raise UsageError(f"{file} has a password, which cannot be given here; {HOW} makes a key without") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"{file} is not a private key in PEM form; {HOW} makes one") from None
    curve = key.curve.name if isinstance(key, EllipticCurvePrivateKey) else "none"
    if curve not in CURVES:
        raise UsageError(
            f"{file} is not a key on one of the curves {', '.join(CURVES)}, which Model Signing needs; {HOW} makes one"
        )
