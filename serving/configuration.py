"""Options of the serving process."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from adaptdock.hub.registry.admission import Requirements
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Options

LOOPBACK = ("127.0.0.1", "::1", "localhost")
STATE = ".serving"
"""Name of the default state folder, inside the folder of the adapters."""


RELOADABLE = (
    "write_tokens",
    "batch_rows",
    "max_wait",
    "queue",
    "queue_per_adapter",
    "queue_seconds",
    "timeout",
    "change_timeout",
    "max_body",
    "max_upload",
    "max_inputs",
    "max_tokens",
    "max_characters",
    "max_new_tokens",
    "keep_versions",
    "watch",
    "drain",
    "drain_delay",
)
"""Options that SIGHUP reads again; all others need a restart."""


class ServingOptions(Options):
    """Options of ``adapt serve``."""

    backbone: str = registry.DEFAULT_BACKBONE
    """Backbone of all adapters: an alias, a folder, a GGUF file or a hub id."""
    adapters: str | None = None
    """Folder to watch: each NAME.safetensors in it is served as NAME."""
    follow_links: bool = False
    """Serve links in the folder to files outside of it, too; otherwise they are refused."""
    state: str | None = None
    """Folder for versions, aliases and splits, which survive a restart; default: a hidden folder among the adapters."""
    shared: bool = False
    """Share the state folder with other processes that also share it; a change by one of them is a change of all."""
    host: str = "127.0.0.1"
    """Address to listen on; an address other than this machine's own needs tokens."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    tokens: str | None = None
    """File with the hashes of the accepted bearer tokens."""
    batch_tokens: int = Field(2048, gt=0)
    """Tokens of a batch in one pass, with padding; the default on a CPU is at most 384 for each core."""
    write_tokens: int = Field(2048, gt=0)
    """Tokens of texts generated together, with padding."""
    batch_rows: int = Field(64, gt=0)
    """Rows of a batch."""
    max_wait: float = Field(2.0, ge=0)
    """Milliseconds that the first input of an idle process waits for more inputs to share its batch."""
    queue: int = Field(1024, gt=0)
    """Largest number of waiting inputs; further inputs get 429. Each client has a share of it."""
    queue_per_adapter: int = Field(512, gt=0)
    """Largest number of waiting inputs of one adapter."""
    queue_seconds: float = Field(2.0, gt=0)
    """Longest expected wait of an input for earlier ones, in seconds; an input that would wait longer gets 429."""
    timeout: float = Field(30.0, gt=0)
    """Timeout of a request, in seconds."""
    change_timeout: float = Field(60.0, gt=0)
    """Timeout of a change to the served adapters, in seconds; then the answer is 504, though it may still complete."""
    max_body: int = Field(4 * 2**20, gt=0)
    """Largest request body, in bytes."""
    max_upload: int = Field(2**30, gt=0)
    """Largest adapter file in an upload or in the folder, in bytes."""
    max_inputs: int = Field(256, gt=0)
    """Largest number of inputs in one request."""
    max_tokens: int = Field(65536, gt=0)
    """Largest number of tokens of one input, over all its windows."""
    max_characters: int | None = Field(None, gt=0)
    """Largest number of characters of one input with its field names; default: 16 for each of max_tokens, or 65,536."""
    max_new_tokens: int = Field(1024, gt=0)
    """Largest number of new tokens for one input."""
    receive_timeout: float = Field(20.0, gt=0)
    """Timeout of a request's head, and then of its body, in seconds."""
    connections: int = Field(2048, gt=0)
    """Largest number of concurrent requests, and of connections; more get 429, except probes."""
    workers: int | None = Field(None, gt=0)
    """Batches computed at the same time; default: two on a CPU with at least two cores, else one."""
    device_bytes: int | None = Field(None, gt=0)
    """Memory budget of docked weights, in bytes; the least recently used are undocked first."""
    host_bytes: int | None = Field(None, gt=0)
    """Memory budget of weights that wait in host memory for a GPU, in bytes."""
    keep_versions: int = Field(3, gt=0)
    """Earlier versions of an adapter to keep for a rollback."""
    watch: float = Field(1.0, gt=0)
    """Seconds between two looks at the folder."""
    drain: float = Field(30.0, ge=0)
    """Seconds for in-flight requests after a stop signal; the process exits at most 5 s later."""
    drain_delay: float = Field(1.0, ge=0)
    """Seconds after SIGTERM in which requests are still accepted, while /readyz already fails."""
    warm_up: bool = True
    """Dock the adapters and run a batch before the first request."""
    audit: str | None = None
    """File for the audit log: one line of JSON for each change to the served adapters, with its origin."""
    require_signed: bool = False
    """Serve only installed adapters that a trusted publisher has signed, and copies of them."""
    locked: str | None = None
    """Lock file of adapt install --lock; only adapters whose content is in this file are served."""
    open_metrics: bool = False
    """Answer /metrics without a token, for gateways that send none; the metrics name all adapters."""
    label_file: str | None = None
    """File of adapt label whose rows the page /label confirms; the only file that this page writes."""
    probes: bool = True
    """Refuse an adapter whose answers to its golden probes have changed since it was saved."""

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
            raise ValueError("adapters or state is needed: a folder to watch, or a folder for uploaded adapters")
        return self

    @model_validator(mode="after")
    def _one_process_writes_labels(self) -> Self:
        if self.shared and self.label_file is not None:
            raise ValueError("label_file is written by one process: serve it without shared (and without --ray)")
        return self

    def changes(self, later: Self) -> tuple[dict[str, Any], list[str]]:
        """Return the changed options of :data:`RELOADABLE` by name, and the names of other changed options."""
        values, wanted = self.model_dump(), later.model_dump()
        names = [name for name in values if values[name] != wanted[name]]
        changed = {name: wanted[name] for name in names if name in RELOADABLE}
        return changed, [name for name in names if name not in RELOADABLE]

    @property
    def characters(self) -> int:
        """Largest number of characters of one input.

        A token has 4 to 5 characters on average. A small limit of tokens is left to the tokenizer, which is cheap
        there.
        """
        return self.max_characters or max(16 * self.max_tokens, 65_536)

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the process."""
        return self.host in LOOPBACK

    @property
    def requirements(self) -> Requirements:
        """The requirements on the served adapters, besides this machine's policy."""
        return Requirements(self.require_signed, None if self.locked is None else Path(self.locked).expanduser())

    @property
    def folder(self) -> Path | None:
        """The watched folder, or None."""
        return None if self.adapters is None else Path(self.adapters).expanduser()

    @property
    def state_folder(self) -> Path:
        """The state folder: ``state``, or a hidden folder in the watched folder."""
        if self.state is not None:
            return Path(self.state).expanduser()
        assert self.folder is not None  # _state_has_a_place has checked that one of the two is set
        return self.folder / STATE
