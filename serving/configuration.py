"""What can be chosen about the serving process."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Options

LOOPBACK = ("127.0.0.1", "::1", "localhost")
STATE = ".serving"
"""The folder, within that of the adapters, in which the state is kept unless another is named."""


class ServingOptions(Options):
    """Options of ``adapt serve``."""

    backbone: str = registry.DEFAULT_BACKBONE
    """Backbone of all adapters: an alias, a folder, a GGUF file or a hub id."""
    adapters: str | None = None
    """Folder that is watched: each NAME.safetensors in it is docked as NAME."""
    state: str | None = None
    """Folder that keeps versions, aliases and splits over a restart; a hidden one in that of the adapters."""
    host: str = "127.0.0.1"
    """Address to listen on; any other than this machine's own needs tokens."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    tokens: str | None = None
    """File with the hashes of the bearer tokens that are let in."""
    batch_tokens: int = Field(2048, gt=0)
    """Tokens of a batch that is read, padding included; unless given no more than 384 for each core on a CPU."""
    write_tokens: int = Field(2048, gt=0)
    """Tokens that texts which are written together may come to, padding included."""
    batch_rows: int = Field(64, gt=0)
    """Rows of a batch."""
    max_wait: float = Field(2.0, ge=0)
    """Milliseconds that the first input of an idle process waits for company."""
    queue: int = Field(1024, gt=0)
    """Inputs that wait at most; more are answered with 429."""
    queue_per_adapter: int = Field(512, gt=0)
    """Inputs that wait for one adapter at most."""
    timeout: float = Field(30.0, gt=0)
    """Seconds after which a request is given up."""
    change_timeout: float = Field(60.0, gt=0)
    """Seconds after which a change of what is served is answered with 504, whether or not it is still made."""
    max_body: int = Field(4 * 2**20, gt=0)
    """Largest body of a request, in bytes."""
    max_upload: int = Field(2**30, gt=0)
    """Largest adapter file that is sent or lies in the folder, in bytes."""
    max_inputs: int = Field(256, gt=0)
    """Inputs of one request."""
    max_tokens: int = Field(65536, gt=0)
    """Tokens of one input, in all its windows."""
    max_characters: int | None = Field(None, gt=0)
    """Characters of one input, with the names of its fields; unless given 16 for each of max_tokens, or 65,536."""
    max_new_tokens: int = Field(1024, gt=0)
    """Tokens that are written for one input."""
    receive_timeout: float = Field(20.0, gt=0)
    """Seconds in which the head of a request has to be complete, and then its body."""
    connections: int = Field(2048, gt=0)
    """Requests that are answered at a time, and connections; more are refused with 503, but for the probes."""
    workers: int | None = Field(None, gt=0)
    """Batches that are computed at a time; unless given two on a CPU with cores for them, else one."""
    device_bytes: int | None = Field(None, gt=0)
    """Budget of docked weights, in bytes; the least recently used make room."""
    host_bytes: int | None = Field(None, gt=0)
    """Budget of weights that wait in host memory beside a GPU, in bytes."""
    keep_versions: int = Field(3, gt=0)
    """Earlier versions of an adapter that stay, to go back to."""
    watch: float = Field(1.0, gt=0)
    """Seconds between two looks at the folder."""
    drain: float = Field(30.0, ge=0)
    """Seconds that requests under way get to their end when the process is told to stop; it ends 5 s later at most."""
    warm_up: bool = True
    """Dock the adapters and run a batch before the first request."""

    @model_validator(mode="after")
    def _open_to_others_only_with_tokens(self) -> Self:
        if self.host not in LOOPBACK and self.tokens is None:
            raise ValueError(
                f"host {self.host} can be reached from other machines: name a file of tokens (tokens), which "
                f"adapt serve --new-token makes, or listen on 127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def _state_has_a_place(self) -> Self:
        if self.adapters is None and self.state is None:
            raise ValueError("adapters or state is needed: a folder to watch, or one for what is sent")
        return self

    @property
    def characters(self) -> int:
        """The characters that one input may have.

        A token of a text has 4 to 5 on average; a small limit of tokens is left to the tokenizer, as it is cheap.
        """
        return self.max_characters or max(16 * self.max_tokens, 65_536)

    @property
    def local(self) -> bool:
        """Whether this machine alone can reach the process."""
        return self.host in LOOPBACK

    @property
    def folder(self) -> Path | None:
        """The folder that is watched."""
        return None if self.adapters is None else Path(self.adapters).expanduser()

    @property
    def state_folder(self) -> Path:
        """The folder in which the state is kept."""
        if self.state is not None:
            return Path(self.state).expanduser()
        assert self.folder is not None  # one of the two is given
        return self.folder / STATE
