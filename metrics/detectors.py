"""Files of pretrained feature extractors: location, download and identification.

A TorchScript file is a program. It is loaded only if the user gave its path, or if it is, to the bit, the file that the
table below identifies. An unknown file in the cache folder is not loaded, and no other network replaces a missing one.
"""

import dataclasses
import os
from pathlib import Path

from dnnlib import UserError, expand_home
from dnnlib.downloads import cache_folder, fetch, git_blob_id, sha256_of

__all__ = ["DETECTORS", "Detector", "DetectorFile", "find_detector"]


@dataclasses.dataclass(frozen=True)
class Detector:
    """A pretrained network that is published as a file.

    Attributes:
        file: Name of the file.
        what: Description for messages.
        size: Approximate size for messages.
        git_blob: Git blob id of the published file; None if it is not known.
        download: URL for automatic download; None without a blob id to check the download against.
        mirrors: Further URLs of the same file, tried in turn if the first one fails.
        pages: Pages that offer the file, for messages.
    """

    file: str
    what: str
    size: str
    git_blob: str | None = None
    download: str | None = None
    mirrors: tuple[str, ...] = ()
    pages: tuple[str, ...] = ()


DETECTORS = {
    "i3d": Detector(
        file="i3d_torchscript.pt",
        what="the I3D network trained on Kinetics-400, as TorchScript",
        size="about 50 MB",
        git_blob="93daef59c7ae0e9e8f76225521407e60cbafa6aa",
        # The file of stylegan-v, and its copy in common_metrics_on_video_quality.
        download="https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
        mirrors=(
            "https://github.com/JunyaoHu/common_metrics_on_video_quality/raw/HEAD/fvd/styleganv/i3d_torchscript.pt",
        ),
        pages=(
            "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
            "https://github.com/JunyaoHu/common_metrics_on_video_quality (fvd/styleganv/i3d_torchscript.pt)",
        ),
    ),
    "inception": Detector(
        file="inception-2015-12-05.pt",
        what="the Inception-v3 network of 2015, as TorchScript",
        size="about 95 MB",
        pages=("https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",),
    ),
    "vgg16": Detector(
        file="vgg16.pt",
        what="the VGG-16 network of StyleGAN2's metrics, as TorchScript",
        size="about 550 MB",
        pages=("https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/vgg16.pt",),
    ),
    "identity": Detector(
        file="a TorchScript file of your choice",
        what="a network that takes float32 faces [N, 3, H, W] in -1…1 and returns features [N, D]",
        size="any size",
    ),
}


@dataclasses.dataclass(frozen=True)
class DetectorFile:
    """A detector file that may be loaded.

    Attributes:
        name: Key of DETECTORS, or name of a user's own extractor.
        path: The file.
        sha256, git_blob: Hashes of its content.
        published: True if it is the file that the table identifies; None if the table has no blob id.
    """

    name: str
    path: Path
    sha256: str
    git_blob: str
    published: bool | None

    def describe(self) -> dict:
        """Plain data for result files."""
        return {
            "network": self.name,
            "file": self.path.name,
            "sha256": self.sha256,
            "git_blob": self.git_blob,
            "published_file": self.published,
        }


def find_detector(
    name: str,
    *,
    path: str | os.PathLike | None = None,
    folder: str | os.PathLike | None = None,
) -> DetectorFile:
    """The file of a detector: the given path, or the known file in the cache folder, fetched if need be.

    Args:
        name: Key of DETECTORS, or another name, whose file must be given.
        path: A file given by the user, which is not checked.
        folder: The cache folder; None for the user's.

    Raises:
        UserError: The file is missing or a different one; the message says what to put where.
    """
    if path is not None:
        path = Path(expand_home(path, name=f"detector {name}="))
        if not path.is_file():
            raise UserError(f"detector {name}={path}: there is no such file.")
        return _identified(name, path)
    if name not in DETECTORS:
        raise UserError(
            f"This metric needs a feature extractor '{name}': a TorchScript file that takes float32 clips "
            f"[N, 3, T, H, W] in -1…1 and returns features [N, D]. Give its path as detector {name}=PATH."
        )
    detector = DETECTORS[name]
    folder = cache_folder("detectors") if folder is None else Path(folder)
    cached = folder / detector.file
    if detector.git_blob is None:
        raise UserError(_missing(name, cached))
    if not os.path.isfile(cached) and detector.download is not None:
        _fetch_anywhere(name, cached)
    if not os.path.isfile(cached):
        raise UserError(_missing(name, cached))
    _require_known(name, cached, str(cached))
    return _identified(name, cached)


def _fetch_anywhere(name: str, cached: Path) -> None:
    """Download a detector's file from the first URL that serves exactly this file.

    Raises:
        UserError: None does; the message says why.
    """
    detector, reasons = DETECTORS[name], []
    for url in (detector.download, *detector.mirrors):
        try:
            fetch(url, cached, check=lambda partial, url=url: _require_known(name, partial, url))
            return
        except UserError as error:
            reasons.append(error)
    raise UserError(f"{_missing(name, cached)} ({'; '.join(map(str, reasons))})") from reasons[0]


def _identified(name: str, path: Path) -> DetectorFile:
    known = DETECTORS[name].git_blob if name in DETECTORS else None
    blob = git_blob_id(path)
    published = None if known is None else blob == known
    return DetectorFile(name=name, path=path, sha256=sha256_of(path), git_blob=blob, published=published)


def _require_known(name: str, path: Path, source: str) -> None:
    blob = git_blob_id(path)
    if blob != DETECTORS[name].git_blob:
        raise UserError(
            f"{source} is not {DETECTORS[name].file}: its git blob id is {blob}, not {DETECTORS[name].git_blob}; it is "
            f"not loaded, because a TorchScript file can run any code. Remove it, or give detector {name}=PATH if you "
            "trust it."
        )


def _missing(name: str, cached: Path) -> str:
    detector = DETECTORS[name]
    pages = f", from {' or '.join(detector.pages)}" if detector.pages else ""
    if detector.git_blob is None:
        return (
            f"This metric needs {detector.what}: {detector.file} ({detector.size}; no checksum is known, so it is "
            f"loaded only if you name it){pages}. Give its path as detector {name}=PATH."
        )
    return (
        f"This metric needs {detector.what}: {detector.file} ({detector.size}, git blob id {detector.git_blob})"
        f"{pages}. Put it at {cached}, or give its path as detector {name}=PATH. Without it, the rfvd metrics can "
        "monitor a training."
    )
