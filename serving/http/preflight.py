"""A check before serving: verify every adapter against the backbone, without opening the port for requests."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import AdaptError, UsageError
from adaptdock.hub.registry.admission import read_adapter
from adaptdock.plugins.contracts import LoadOptions
from adaptdock.serving.catalog.folder_watcher import SUFFIX, check_link
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.http.access_tokens import read_tokens
from adaptdock.serving.http.process import listen
from adaptdock.serving.versions import checked_name


@dataclass(frozen=True)
class Checked:
    """A summary for a person, and the reasons of refused adapters."""

    summary: dict[str, Any]
    refused: list[str]


def check(options: ServingOptions, load: LoadOptions) -> Checked:
    """Verify the tokens, folder, address, backbone and adapters; raise the errors of a start."""
    if options.tokens:
        read_tokens(Path(options.tokens).expanduser())
    folder = options.folder
    if folder is not None and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; --adapters is the folder to watch")
    listen(options).close()
    dock = Dock(load_backbone(options.backbone, load))
    refused, total, paths = [], 0, sorted(folder.glob(f"[!.]*{SUFFIX}")) if folder is not None else []
    for path in paths:
        try:
            checked_name(path.name.removesuffix(SUFFIX))
            if not options.follow_links:
                check_link(path)
            adapter = read_adapter(path, options.requirements)
            total += (dock.proved(adapter) if options.probes else dock.prepare(adapter)).nbytes
        except AdaptError as error:
            refused.append(str(error))
    summary = {
        "address": f"{options.host}:{options.port}",
        "tokens": "needed" if options.tokens else "none: for this machine only",
        "backbone": f"{dock.backbone.id} ({dock.backbone.architecture})",
        "adapters": f"{len(paths) - len(refused)} of {len(paths)} can be served",
        "bytes of weights": total,
        "state": str(options.state_folder),
    }
    return Checked(summary, refused)
