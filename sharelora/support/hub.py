"""Find a model or an adapter in a folder, the local cache or the hub, at once and without waiting on a network."""

from __future__ import annotations

import socket
import threading
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from sharelora.support.errors import UserError
from sharelora.support.reading import NAME, read_json

CONNECT_SECONDS = 3.0
REQUEST_SECONDS = 10.0
INDEX = "model.safetensors.index.json"


def looks_like_a_path(name: str) -> bool:
    """Whether a name can only be a folder: hub ids have at most one slash and start with a letter or digit."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def _address() -> tuple[str, int]:
    """Host and port that a request to the hub would first connect to: the hub's own, or the proxy's."""
    hub = urlsplit(constants.ENDPOINT)
    host = hub.hostname or ""
    proxy = urllib.request.getproxies().get(hub.scheme)
    if proxy and not urllib.request.proxy_bypass(host):
        hub = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    return hub.hostname or "", hub.port or (80 if hub.scheme == "http" else 443)


def hub_reachable(seconds: float = CONNECT_SECONDS) -> bool:
    """Whether the hub answers a connection within a few seconds; False at once in offline mode."""
    if constants.HF_HUB_OFFLINE:
        return False
    answers: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection(_address(), timeout=seconds).close()
            answers.append(True)
        except OSError:
            answers.append(False)

    # A socket's timeout does not cover the name lookup, which can take much longer: a thread can be left behind.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers == [True]


def has_weights(folder: Path) -> bool:
    """Whether a model folder has its configuration and every safetensors file that it needs."""
    if not (folder / "config.json").is_file():
        return False
    if (folder / INDEX).is_file():
        shards = shards_of(folder)
        return bool(shards) and all((folder / shard).is_file() for shard in shards)
    return (folder / "model.safetensors").is_file()


def shards_of(folder: Path) -> dict[str, list[str]]:
    """Return the files of a model's index: name -> the weights that are in it, all in order.

    Raises:
        UserError: the index is damaged, or names files elsewhere.
    """
    weights: dict[str, str] = read_json(folder / INDEX, {"weight_map": {...: NAME}})["weight_map"]
    shards: dict[str, list[str]] = {file: [] for file in sorted(set(weights.values()))}
    elsewhere = next((file for file in shards if Path(file).name != file), None)
    if elsewhere is not None:
        raise UserError(f"{folder / INDEX} names the file {elsewhere!r}; need files of the same folder; copy it again")
    for name, file in sorted(weights.items()):
        shards[file].append(name)
    return shards


def cached_folder(
    name: str, file: str = "config.json", revision: str | None = None, cache_dir: str | None = None
) -> Path | None:
    """The local copy of a hub repository that holds `file`, or None."""
    try:
        cached = huggingface_hub.try_to_load_from_cache(name, file, cache_dir=cache_dir, revision=revision)
    except ValueError:  # not a possible repository name
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def repository_files(name: str, revision: str | None = None, token: str | bool | None = None) -> list[str]:
    """The names of a hub repository's files, by one request.

    Raises:
        UserError: no such repository, no access to it, or no answer.
    """
    api = huggingface_hub.HfApi(token=token)
    try:
        info = api.model_info(name, revision=revision, timeout=REQUEST_SECONDS)
    except GatedRepoError as error:
        raise UserError(
            f"{name} is gated; need an account that accepted its licence; pass --token or run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{name} not found: no such folder and no such repository on the hub (or it is private); "
            "check the name, or set MODEL=/path/to/a/folder, or add --tiny"
        ) from error
    except (HfHubHTTPError, ValueError, OSError) as error:
        raise UserError(f"{name}: the hub refused ({_first_line(error)}); check the name and revision") from error
    return [file.rfilename for file in info.siblings or []]


def unreachable(name: str, what: str) -> UserError:
    """Say that something is neither a folder nor in the cache and that the hub cannot be asked."""
    ways = "set MODEL=/path/to/a/folder, or add --tiny" if what == "model" else "give the path of a folder"
    return UserError(f"{what} {name} not found: no such folder and the hub cannot be reached; {ways}")


def missing_folder(name: str, what: str) -> UserError:
    """Say that a path does not lead to a folder."""
    ways = "check the path, or add --tiny" if what == "model" else "check the path"
    return UserError(f"{what} {name} not found: no such folder; {ways}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
