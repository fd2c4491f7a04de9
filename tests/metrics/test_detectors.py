"""Detector files: which are loaded, which are refused, and the messages."""

import dataclasses
import re
import runpy
from pathlib import Path

import pytest
import torch

from dnnlib import UserError
from dnnlib.downloads import git_blob_id, sha256_of
from metrics import detectors
from metrics.detectors import DETECTORS, find_detector
from metrics.feature_extractors import detector_of, find_detectors, make_network
from metrics.registry import METRICS
from tests.metrics.detector_files import SmallClips, SmallI3D, SmallIdentity, save_i3d, save_inception, save_torchscript
from tests.metrics.synthetic import waves


@pytest.fixture
def known_i3d(tmp_path, monkeypatch):
    """A small file in place of the published one: the table knows its identity and where to fetch it."""
    source = save_i3d(tmp_path / "published.pt")
    entry = dataclasses.replace(DETECTORS["i3d"], git_blob=git_blob_id(source), download=source.as_uri(), mirrors=())
    monkeypatch.setitem(detectors.DETECTORS, "i3d", entry)
    return source


@pytest.fixture
def offline(monkeypatch):
    nowhere = "file:///nowhere/i3d_torchscript.pt"
    entry = dataclasses.replace(DETECTORS["i3d"], download=nowhere, mirrors=("file:///nowhere/copy.pt",))
    monkeypatch.setitem(detectors.DETECTORS, "i3d", entry)


def test_the_table():
    """Names as in the specification."""
    i3d, inception = DETECTORS["i3d"], DETECTORS["inception"]
    assert i3d.file == "i3d_torchscript.pt" and i3d.git_blob == "93daef59c7ae0e9e8f76225521407e60cbafa6aa"
    assert i3d.download == "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1"
    assert (
        all(url.endswith("/i3d_torchscript.pt") and url.startswith("https://") for url in i3d.mirrors) and i3d.mirrors
    )
    vgg16 = DETECTORS["vgg16"]
    assert vgg16.file == "vgg16.pt" and vgg16.git_blob is None and vgg16.download is None
    assert inception.file == "inception-2015-12-05.pt" and inception.git_blob is None and inception.download is None


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_the_file_of_the_documentation(tmp_path, monkeypatch):
    """The lines of docs/evaluation.md make a feature extractor."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "make.py").write_text(lines)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("make.py")
    found = find_detectors(["fvd64_16f_colours"], {"colours": "colours.pt"})
    clips = torch.randint(0, 256, [2, 3, 16, 8, 8], dtype=torch.uint8)
    features = make_network("colours", device="cpu", detectors=found)(clips)
    expected = (clips.float() / 127.5 - 1).mean(dim=(3, 4)).flatten(1)
    torch.testing.assert_close(features.float(), expected, rtol=0, atol=1e-5)


def test_download_into_the_cache(tmp_path, known_i3d):
    folder = tmp_path / "cache"
    found = find_detector("i3d", folder=folder)
    assert found.path == folder / "i3d_torchscript.pt" and found.published is True
    assert found.git_blob == git_blob_id(known_i3d) and found.sha256 == sha256_of(known_i3d)
    known_i3d.unlink()  # now it is only in the cache
    assert find_detector("i3d", folder=folder) == found
    assert found.describe() == {
        "network": "i3d",
        "file": "i3d_torchscript.pt",
        "sha256": found.sha256,
        "git_blob": found.git_blob,
        "published_file": True,
    }


def test_a_wrong_file_in_the_cache_is_not_loaded(tmp_path, known_i3d):
    wrong = save_i3d(tmp_path / "i3d_torchscript.pt", width=7)
    with pytest.raises(UserError, match="its git blob id is .* not .*; it is not loaded") as caught:
        find_detector("i3d", folder=tmp_path)
    assert git_blob_id(wrong) in str(caught.value) and "\n" not in str(caught.value)


def test_a_wrong_download_is_not_kept(tmp_path, known_i3d):
    known_i3d.write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(UserError, match="is not i3d_torchscript.pt: its git blob id is"):
        find_detector("i3d", folder=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("first", ["missing", "another file"])
def test_a_second_place(tmp_path, known_i3d, monkeypatch, first):
    """The first URL has no such file, or a different one."""
    if first == "another file":
        (tmp_path / "first.pt").write_bytes(b"<html>quota exceeded</html>")
    places = {"download": (tmp_path / "first.pt").as_uri(), "mirrors": (known_i3d.as_uri(),)}
    monkeypatch.setitem(detectors.DETECTORS, "i3d", dataclasses.replace(DETECTORS["i3d"], **places))
    found = find_detector("i3d", folder=tmp_path / "cache")
    assert found.published is True and [path.name for path in (tmp_path / "cache").iterdir()] == ["i3d_torchscript.pt"]


def test_offline(tmp_path, offline):
    with pytest.raises(UserError) as caught:
        find_detector("i3d", folder=tmp_path / "cache")
    message = str(caught.value)
    place = str(tmp_path / "cache" / "i3d_torchscript.pt")
    tried = [f"Cannot download file:///nowhere/{name}.pt" for name in ("i3d_torchscript", "copy")]
    parts = ("i3d_torchscript.pt", "about 50 MB", "93daef59", "dropbox.com", place, "Put it at", "i3d=PATH", "rfvd")
    for part in (*parts, *tried):
        assert part in message
    assert "\n" not in message


def test_a_file_without_known_identity_needs_the_users_word(tmp_path):
    save_inception(tmp_path / "inception-2015-12-05.pt")
    with pytest.raises(UserError, match="no checksum is known.*Give its path as detector inception=PATH"):
        find_detector("inception", folder=tmp_path)
    found = find_detector("inception", path=tmp_path / "inception-2015-12-05.pt")
    assert found.published is None and len(found.sha256) == 64


def test_a_path_of_the_users(tmp_path):
    path = save_i3d(tmp_path / "mine.pt")
    found = find_detector("i3d", path=path, folder=tmp_path / "unused")
    assert found.path == path and found.published is False
    with pytest.raises(UserError, match="detector i3d=.*nothing.pt: there is no such file"):
        find_detector("i3d", path=tmp_path / "nothing.pt")


def test_which_detectors_metrics_need(tmp_path):
    i3d, inception = save_i3d(tmp_path / "a.pt"), save_inception(tmp_path / "b.pt")
    found = find_detectors(["fvd64_16f", "kvd64_16f", "is1k", "rfvd64_16f"], {"i3d": str(i3d), "inception": inception})
    assert {name: file.path for name, file in found.items()} == {"i3d": i3d, "inception": inception}
    assert find_detectors(["rfvd64_16f", "motion32_16f"], {}) == {}
    assert {detector_of(metric.network) for metric in METRICS.values()} - {None} == set(DETECTORS)


def test_an_extractor_of_the_users(tmp_path):
    path = save_torchscript(SmallClips(), tmp_path / "videomae.pt")
    found = find_detectors(["fvd64_16f_videomae", "kvd64_16f_videomae", "rfvd64_16f"], {"videomae": str(path)})
    assert list(found) == ["videomae"] and found["videomae"].published is None
    clips = waves(3, frames=5)
    features = make_network("videomae", device="cpu", detectors=found)(clips)
    torch.testing.assert_close(features, (clips.float() / 127.5 - 1).mean(dim=[3, 4]).flatten(1))
    with pytest.raises(UserError, match="needs a feature extractor 'videomae': .* as detector videomae=PATH"):
        find_detectors(["fvd64_16f_videomae"], {"i3d": str(path)})


# ----------------------------------------------------------------------------------------------------------------------
# What is in the file


def network(name, detector, path):
    return make_network(name, device="cpu", detectors={detector: find_detector(detector, path=path)})


class Logits(torch.nn.Module):
    """An Inception network whose softmax is missing."""

    def forward(self, x: torch.Tensor, no_output_bias: bool = False):
        return x.float().flatten(1)[:, :8] / 255


def test_calls(tmp_path):
    """uint8 clips go in as they are; the same features come out, alone or in a batch."""
    clips = waves(3, frames=5)
    path = save_i3d(tmp_path / "i3d.pt")
    found = network("i3d", "i3d", path)(clips)
    module = SmallI3D(400)
    expected = torch.cat([module(c[None], rescale=True, resize=True, return_features=True) for c in clips])
    assert torch.equal(found, expected) and found.shape == (3, 400)
    assert torch.equal(network("i3d", "i3d", path)(clips[1:]), found[1:])

    path = save_inception(tmp_path / "inception.pt")
    images = clips[:, :, :1]
    assert network("inception", "inception", path)(images).shape == (3, 2048)
    probabilities = network("inception_probabilities", "inception", path)(images)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3))
    with pytest.raises(UserError, match="logits.pt is not inception: .* it must return probabilities"):
        network("inception_probabilities", "inception", save_torchscript(Logits(), tmp_path / "logits.pt"))(images)

    path = save_torchscript(SmallIdentity(), tmp_path / "identity.pt")
    rows = network("identity", "identity", path)(clips)
    expected = (clips.float() / 127.5 - 1).mean(dim=[3, 4]).transpose(1, 2).reshape(3, 15)  # [N, T · 3]
    torch.testing.assert_close(rows, expected)


def test_the_key_tells_files_and_uses_apart(tmp_path):
    one, two = save_inception(tmp_path / "1.pt"), save_inception(tmp_path / "2.pt", width=16)
    names = ("inception", "inception_probabilities")
    keys = {network(name, "inception", path).key for name in names for path in (one, two)}
    assert len(keys) == 4


def test_not_torchscript(tmp_path):
    path = tmp_path / "i3d.pt"
    for content in (b"", b"no archive", b"PK\x03\x04 damaged"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="i3d.pt cannot be loaded as TorchScript") as caught:
            network("i3d", "i3d", path)
        assert "\n" not in str(caught.value)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="cannot be loaded as TorchScript"):
        network("i3d", "i3d", path)


class Insatiable(torch.nn.Module):
    """Needs four terabytes."""

    def forward(self, x: torch.Tensor):
        return torch.zeros([1 << 40])[:, None]


def test_a_full_memory_is_no_fault_of_the_file(tmp_path, monkeypatch):
    path = save_torchscript(Insatiable(), tmp_path / "large.pt")
    with pytest.raises(RuntimeError, match="can't allocate memory") as caught:
        network("videomae", "videomae", path)(waves(1))
    assert not isinstance(caught.value, UserError)  # the command gives its advice

    def load(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(torch.jit, "load", load)
    with pytest.raises(UserError) as caught:
        network("videomae", "videomae", path)
    assert str(caught.value) == (
        f"The memory is full. Loading {path} needs more: end other programs, or use a larger machine."
    )


def test_wrong_width(tmp_path):
    path = save_i3d(tmp_path / "i3d.pt", width=512)
    with pytest.raises(UserError, match="i3d.pt is not i3d: it returns 512 features, not 400"):
        network("i3d", "i3d", path)(waves(1))


def test_features_that_are_not_finite(tmp_path):
    """All comparisons with NaN are false, so that precision would be 0."""

    class Broken(torch.nn.Module):
        def forward(self, x: torch.Tensor):
            return x.mean(dim=[3, 4]).flatten(1) / 0

    path = save_torchscript(Broken(), tmp_path / "broken.pt")
    with pytest.raises(UserError, match="broken.pt gives features that are not finite"):
        network("videomae", "videomae", path)(waves(1))


def test_another_call_or_shape(tmp_path):
    path = save_inception(tmp_path / "x.pt")
    with pytest.raises(UserError, match="cannot be used as i3d: its call failed") as caught:
        network("i3d", "i3d", path)(waves(1))
    assert "\n" not in str(caught.value)

    path = save_torchscript(torch.nn.Flatten(0), tmp_path / "flat.pt")
    with pytest.raises(UserError, match=r"is not identity: for 16 samples it returns \[27648\]"):
        network("identity", "identity", path)(waves(1))
