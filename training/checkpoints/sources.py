"""Sources of checkpoints: local paths, web addresses, Google Drive links, and models of the Hugging Face Hub.

    runs/00000-clips                                a file or a folder
    https://host/snapshot.pt#sha256=6f1e…           downloaded once into the user's cache, its checksum compared
    https://drive.google.com/file/d/1JlY…           likewise, by gdown
    hf://user/name@revision, user/name              a model of the Hub, in the Hub's own cache

A remote file is read as data like any other: nothing in it is executed. This module imports no PyTorch, so that
commands can check their arguments quickly.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from dnnlib import UserError, exclusive_lock, one_line
from dnnlib.downloads import cache_folder, fetch, make_cache_folder, sha256_of

__all__ = ["check_upload", "is_remote", "local_checkpoint", "upload_folder"]

URL = re.compile(r"https?://", re.IGNORECASE)
DRIVE = re.compile(r"https://drive\.google\.com/(?:file/d/|open\?id=|uc\?(?:\S*&)?id=)([\w-]{10,})")
HUB_PAGE = re.compile(r"https://huggingface\.co/([\w.-]+/[\w.-]+(?:@[\w./-]+)?)")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILE = re.compile(r"\.(?:pt|pkl|pth|npz|zip|json|yaml|safetensors)$", re.IGNORECASE)
CHECKSUM = re.compile(r"sha256=([0-9a-fA-F]{64})")
#: Files of a model that are downloaded from the Hub: see `training.checkpoints.pretrained`, and snapshots.
HUB_FILES = ["*.json", "*.safetensors", "network-snapshot-*", "latest-network-snapshot.*"]


def is_remote(source: str | os.PathLike) -> bool:
    """True for a web address or an id of the Hub; False for a path that exists or whose first folder does."""
    text = os.fspath(source)
    if URL.match(text) or text.startswith("hf://"):
        return True
    return (
        HUB_ID.fullmatch(text) is not None
        and FILE.search(text) is None
        and not os.path.lexists(text)
        and not os.path.exists(text.partition("/")[0])
    )


def local_checkpoint(source: str | os.PathLike) -> Path:
    """The file or folder of a source, downloaded if it is remote; other paths as they are.

    Raises:
        UserError: It cannot be downloaded, is not what its checksum says, or needs a package that is missing.
    """
    text = os.fspath(source)
    if not is_remote(text):
        return Path(text)
    page = HUB_PAGE.fullmatch(text.rstrip("/"))
    if URL.match(text) and page is None:
        return _from_web(text)
    model = page[1] if page else text.removeprefix("hf://").rstrip("/")
    name, at, revision = model.partition("@")
    if at and not revision:
        raise UserError(f"{text}: no revision follows the '@'; leave it out for the newest one.")
    return _from_hub(name, revision or None, typed=text)


# ----------------------------------------------------------------------------------------------------------------------
# Web addresses


def _from_web(source: str) -> Path:
    address, _, fragment = source.partition("#")
    wanted = None
    if fragment:
        checksum = CHECKSUM.fullmatch(fragment)
        if checksum is None:
            raise UserError(f"{source}: after '#' only sha256=<64 hexadecimal digits> is understood, a checksum.")
        wanted = checksum[1].lower()
    drive = DRIVE.match(address)
    name = re.sub(r"[^\w.-]+", "-", os.path.basename(address.partition("?")[0]))[:80].strip(".")
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    path = cache_folder("checkpoints", key) / (f"{drive[1]}.pkl" if drive else name or "checkpoint")

    def there() -> bool:
        return path.is_file() and (wanted is None or sha256_of(path) == wanted)

    if there():
        return path

    def check(file: Path) -> None:
        from training.checkpoints.archive import check_kind, is_pickle

        if not is_pickle(file):
            check_kind(file, "a checkpoint", name=address)
        found = sha256_of(file)
        if wanted is not None and found != wanted:
            raise UserError(f"{address} is not the file that was asked for: its SHA-256 is {found}, not {wanted}.")

    make_cache_folder(path.parent)
    with exclusive_lock(path.parent):  # of a training's processes one downloads, and the others wait
        if there():
            pass
        elif drive is not None:
            _fetch_from_drive(drive[1], path, check)
        else:
            fetch(address, path, check=check)
    return path


def _fetch_from_drive(identifier: str, path: Path, check: Callable[[Path], None]) -> None:
    """Download a file from Google Drive by gdown, which handles its confirmation page for large files."""
    try:
        import gdown
    except ImportError as error:
        raise UserError(
            "Google Drive needs one more package: `pip install gdown`; or download the file in a browser."
        ) from error
    folder = path.with_name(f".{path.name}.{os.getpid()}.download")  # gdown keeps the file of an interrupted download
    try:
        folder.mkdir(exist_ok=True)
        partial = folder / path.name
        try:
            done = gdown.download(id=identifier, output=str(partial))
        except Exception as error:  # gdown's own errors, and those of its HTTP library
            raise UserError(f"Cannot download {identifier} from Google Drive: {one_line(error)[:300]}") from error
        if done is None or not partial.is_file():
            raise UserError(f"Cannot download {identifier} from Google Drive; download it in a browser.")
        check(partial)
        os.replace(partial, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ----------------------------------------------------------------------------------------------------------------------
# The Hugging Face Hub


def _from_hub(name: str, revision: str | None, *, typed: str) -> Path:
    """The folder of a model in the Hub's cache; without a connection, the version downloaded before."""
    plain = typed == name  # may be a mistyped path as well
    nothing = f"There is no file or folder {typed} here; "
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        start = f"{nothing}if a model of the Hugging Face Hub is meant, this needs" if plain else f"{typed} needs"
        raise UserError(f"{start} one more package: `pip install huggingface-hub`.") from error
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES))
    except Exception as error:  # its errors of the network, of the cache, and of names, and those of its HTTP library
        about = one_line(error)[:300]
        start = f"{nothing}if a model of the Hugging Face Hub is meant, it cannot be downloaded" if plain else ""
        raise UserError(f"{start or f'Cannot download {typed} from the Hugging Face Hub'}: {about}") from error


def check_upload(name: str) -> None:
    """Refuse an upload that is certain to fail, before there is something to upload.

    Raises:
        UserError: huggingface-hub is missing, or the name is invalid.
    """
    if not isinstance(name, str) or HUB_ID.fullmatch(name) is None:
        raise UserError(f"'{name}' is not the name of a model on the Hugging Face Hub; write user/name.")
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise UserError("An upload needs one more package: `pip install huggingface-hub`.") from error


def upload_folder(folder: str | os.PathLike, name: str, *, private: bool, message: str) -> str:
    """Upload the files of a folder to a model of the Hub; returns its address.

    Discriminators there that the folder does not hold are deleted: they belong to the generator that is replaced.

    Args:
        name: user/name; the model is created if it is missing.
        private: Make a newly created model visible to its owner only.
        message: Message of the commit.

    Raises:
        UserError: huggingface-hub is missing, the name is invalid, or the upload fails.
    """
    check_upload(name)
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=os.fspath(folder), commit_message=message, delete_patterns="discriminator.*"
        )
    except Exception as error:  # of the network, and without `hf auth login`; some are its HTTP library's own
        raise UserError(f"Cannot upload to {name} on the Hugging Face Hub: {one_line(error)[:300]}") from error
    return str(address)
