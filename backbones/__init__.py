"""The backbone families and what they share."""

import logging

if __name__ != "adaptdock.backbones":
    raise ImportError("this folder is the package adaptdock.backbones; import it by that name")

# transformers imports torchao, which warns of each GPU kernel that a CPU lacks and of each enumeration it registers.
for name in ("torchao", "torch.utils._pytree"):
    if logging.getLogger(name).level == logging.NOTSET:
        logging.getLogger(name).setLevel(logging.ERROR)
