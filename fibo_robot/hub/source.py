"""Where a model lies: a folder here, or a repository on the Hugging Face Hub, `hf:owner/name[@revision]`.

Only named files are fetched: weights as safetensors, and the JSON and YAML that describe them. Nothing that
could run code when it is read (pickles, `trainer.ckpt`, Python files) is ever downloaded.
"""

import re
from pathlib import Path

from fibo_robot.errors import FiboError

PREFIX = "hf:"
# Of our run directories, of checkpoints of transformers, and of LeRobot's checkpoints of our policies.
FETCHED = (
    "config.yaml",
    "meta.json",
    "history.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
)
# As the Hub allows: letters, digits and single marks between them.
_WORD = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?"
_REPOSITORY = re.compile(rf"(?P<name>{_WORD}/{_WORD})(?:@(?P<revision>[\w./-]+))?")


class HubError(FiboError):
    """The Hub does not give or take what was asked for; the message says why."""


def is_on_hub(source: Path | str) -> bool:
    """Whether a model's place is written as `hf:owner/name`."""
    return str(source).startswith(PREFIX)


def local_folder(source: Path | str) -> Path:
    """The folder where a model's files lie, after fetching them from the Hub where they are there.

    What was fetched stays in huggingface_hub's cache (HF_HOME), and serves where there is no network. A
    folder of that cache (`models--owner--name`) is taken for the revision that its `main` names.

    Args:
        source: a folder, which need not exist, or `hf:owner/name[@revision]`.

    Raises:
        HubError: the name is none, or the Hub does not give the files.
    """
    if is_on_hub(source):
        return _fetch(str(source))
    folder = Path(source)
    main = folder / "refs" / "main"
    if (folder / "snapshots").is_dir() and main.is_file():
        return folder / "snapshots" / main.read_text(encoding="utf-8").strip()
    return folder


def name_of(source: Path | str, folder: Path) -> str:
    """What results call a model: its folder's name, or its name on the Hub and the revision that was read."""
    if is_on_hub(source):
        return f"{str(source).partition('@')[0]}@{folder.name}"
    return folder.resolve().name


def results_folder(source: Path | str) -> Path:
    """Where results about a model go by default: its run directory; of a model on the Hub, `runs/NAME`."""
    if is_on_hub(source):
        return Path("runs") / str(source).partition("@")[0].rpartition("/")[2]
    return Path(source)


def check_repository(name: str) -> str:
    """Return `owner/name` as it is; raises HubError for anything else."""
    match = _REPOSITORY.fullmatch(name)
    if match is None or match["revision"]:
        raise HubError(f"{name!r} names no repository on the Hub: write owner/name.")
    return name


def _fetch(source: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    match = _REPOSITORY.fullmatch(source.removeprefix(PREFIX))
    if match is None:
        raise HubError(f"{source!r} names no repository on the Hub: write hf:owner/name, or …@revision.")
    try:
        folder = snapshot_download(
            match["name"], revision=match["revision"], allow_patterns=list(FETCHED), library_name="fibo_robot"
        )
    except LocalEntryNotFoundError as error:
        raise HubError(
            f"{source} cannot be fetched and was not fetched before: the Hub cannot be reached. Check the "
            "network, or HF_ENDPOINT and HF_HUB_OFFLINE, or give a folder."
        ) from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"The Hub has no repository {match['name']} that you may read. Check the name; for a private or "
            "gated one, log in with `hf auth login`."
        ) from error
    except HfHubHTTPError as error:
        reason = " ".join(str(error).split("\n\n")[-1].split())
        raise HubError(f"The Hub does not give {source}: {reason}") from error
    return Path(folder)
