"""Registry of the metrics by name; it does not import PyTorch.

A name gives the statistic and the number and length of the samples: fvd2048_16f is the Fréchet video distance of 2048
generated and 2048 real clips of 16 frames. Names that begin with r (rfvd…, ridentity…) use a fixed random network
instead of a pretrained one, to monitor a training on any machine; their values are not comparable with those of the
metrics that they resemble. Names that end in _<extractor> (fvd2048_16f_videomae) use the user's own TorchScript file in
place of I3D; looking one up in the table succeeds, although the table does not list it.
"""

import dataclasses
import re
from collections.abc import Iterable

from dnnlib import UserError, choices_hint, one_line

__all__ = ["METRICS", "NEIGHBOURS", "ONE_YAW", "Metric", "extrapolation_note", "find_metric"]

NOT_FVD = "NOT FVD: features of an untrained random network; compare only with the same metric here"
NOT_I3D = "features of an untrained random network; compare only with the same metric here"
NEIGHBOURS = 3  # of precision and recall; part of the names and of the results
ONE_YAW = (
    "compares views from different yaws, and all cameras have the same one (model.generator.camera.yaw); choose "
    "metrics of single views or of clips, e.g. flatness32_1v"
)
NOT_FACES = "features of an untrained random network, not of a face recognition network"


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric: its protocol and its description.

    Attributes:
        name: Name on the command line.
        statistic: Key of metrics.metric_functions.STATISTICS.
        network: Feature extractor; see metrics.feature_extractors.
        samples: Kind of samples: 'clips', 'images' (single frames), 'views' (one time step from several cameras), or
            'pairs' (one time step from two cameras, with its depth).
        count: Number of generated samples, and of real clips.
        frames: Length of a clip in frames.
        subsample: Keep every n-th frame.
        uses_real: Real samples are measured as well.
        several_views: It compares views of one time step; those of a single camera would be equal.
        about: Description in one line.
        better: 'lower', 'higher', or '' for neither.
        warning: Warning in every output, or ''.
    """

    name: str
    statistic: str
    network: str
    samples: str
    count: int
    about: str
    better: str
    frames: int = 1
    subsample: int = 1
    uses_real: bool = True
    several_views: bool = False
    warning: str = ""

    def protocol(self) -> dict:
        """Everything that determines the value besides the two sets of videos, as plain data."""
        entry = dataclasses.asdict(self)
        for key in ("name", "about", "warning", "better", "several_views"):
            del entry[key]
        return {"measure": entry.pop("statistic"), **entry}  # as rows have always called it


# Lengths of clips by their suffix: frames, and the stride of the frames that are kept.
LENGTHS = {"16f": (16, 1), "32f": (32, 1), "128f": (128, 1), "128f_subsample8f": (128, 8)}


def _video_metrics() -> list[Metric]:
    precise = f"precision and recall ({NEIGHBOURS} nearest neighbours)"
    about = {
        "fvd": ("frechet", "i3d", "Fréchet video distance, I3D features", ""),
        "kvd": ("kernel", "i3d", "kernel video distance (unbiased MMD²), I3D features", ""),
        "rfvd": ("frechet", "random", "Fréchet distance in features of a random 3D network", NOT_FVD),
        "pr": ("precision_recall", "i3d", f"{precise}, I3D features", ""),
        "rpr": ("precision_recall", "random", f"{precise}, random 3D network", NOT_I3D),
    }
    found = []
    for prefix, (statistic, network, text, warning) in about.items():
        for length, (frames, subsample) in LENGTHS.items():
            for count in (2048, 256, 64):
                two_figures = statistic == "precision_recall"
                if frames > 16 and (count < 2048 or prefix == "kvd" or two_figures):
                    continue
                found.append(
                    Metric(
                        name=f"{prefix}{count}{f'k{NEIGHBOURS}' if two_figures else ''}_{length}",
                        statistic=statistic,
                        network=network,
                        samples="clips",
                        count=count,
                        frames=frames,
                        subsample=subsample,
                        about=f"{text}, {count} clips of {frames} frames" + (", every 8th" if subsample > 1 else ""),
                        better="" if two_figures else "lower",
                        warning=warning,
                    )
                )
    return found


def _image_metrics() -> list[Metric]:
    found = []
    for text, count in (("50k", 50_000), ("1k", 1000)):
        size = {"samples": "images", "count": count}
        against = f"{count} generated frames, all real frames"
        about = f"Fréchet distance, Inception features, {against}"
        found.append(Metric(f"fid{text}_full", "frechet", "inception", about=about, better="lower", **size))
        about = f"kernel distance (100 subsets of 1000), Inception features, {against}"
        found.append(Metric(f"kid{text}_full", "kernel_subsets", "inception", about=about, better="lower", **size))
        about = f"precision and recall ({NEIGHBOURS} nearest neighbours), VGG-16 features, {against}"
        found.append(Metric(f"pr{text}{NEIGHBOURS}_full", "precision_recall", "vgg16", about=about, better="", **size))
        about = f"Inception score of {count} generated frames, 10 splits"
        name, network = f"is{text}", "inception_probabilities"
        found.append(Metric(name, "inception_score", network, about=about, uses_real=False, better="higher", **size))
    return found


def _further_metrics() -> list[Metric]:
    found = []
    for count in (256, 32):
        clips = {"samples": "clips", "count": count, "frames": 16}
        about = "mean length of the optical flow in pixels per frame"
        found.append(Metric(f"motion{count}_16f", "mean", "motion", about=about, better="", **clips))
        about = "second over first differences in time: 0 steady change, √3 noise, 2 alternating frames"
        found.append(Metric(f"flicker{count}_16f", "mean", "flicker", about=about, better="", **clips))
        views = {"samples": "views", "count": count, "uses_real": False, "several_views": True}
        for prefix, network, warning in (("", "identity", ""), ("r", "random_frames", NOT_FACES)):
            similar = {"network": network, "warning": warning, "better": "higher"}
            about = "mean cosine of the features of a clip's frames"
            found.append(Metric(f"{prefix}identity{count}_16f", "similarity", about=about, **similar, **clips))
            about = "mean cosine of the features of one time step seen from five cameras"
            found.append(Metric(f"{prefix}identity{count}_5v", "similarity", about=about, **similar, **views))
        pairs = {"samples": "pairs", "count": count, "uses_real": False}
        about = "difference between a view and another one warped into it by its depth, 0 to 1"
        found.append(
            Metric(f"warping{count}_2v", "mean", "warping", about=about, better="lower", several_views=True, **pairs)
        )
        about = "1 − thickness / width of the visible surface: 1 for a plane, however it is turned"
        found.append(Metric(f"flatness{count}_1v", "mean", "flatness", about=about, better="", **pairs))
    return found


class MetricTable(dict[str, Metric]):
    """Metrics by name; lookup also finds those with a user's own extractor, iteration does not.

    Raises:
        KeyError: Unknown name; its message says what to do.
    """

    def __missing__(self, name: str) -> Metric:
        base = max((known for known in self if name.startswith(f"{known}_")), key=len, default="")
        metric, extractor = self.get(base), name[len(base) + 1 :]
        if metric is None:
            hint = choices_hint(name, self, everything="python -m metrics --list shows all.")
        elif metric.network != "i3d":
            hint = "feature extractors of your own replace I3D only, in metrics of clips such as fvd2048_16f_videomae."
        elif not re.fullmatch(r"[a-z][a-z0-9]*", extractor):
            hint = f"the name of a feature extractor, after {base}_, is a letter a-z and then letters a-z or digits."
        elif extractor in {known.network for known in self.values()}:
            hint = f"'{extractor}' is a feature extractor of this program: give yours another name."
        else:
            about = f"{metric.about} (with features of '{extractor}' in place of I3D)"
            warning = f"features of '{extractor}', not I3D: compare only values of the same file"
            return dataclasses.replace(metric, name=name, network=extractor, about=about, warning=warning)
        raise KeyError(f"there is no metric '{name}'; {hint}")

    def __contains__(self, name: object) -> bool:
        try:
            self[name]
        except (KeyError, AttributeError, TypeError):
            return False
        return True


METRICS = MetricTable((m.name, m) for m in (*_video_metrics(), *_image_metrics(), *_further_metrics()))


def find_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        UserError: Unknown name.
    """
    if not isinstance(name, str):
        raise UserError(f"metrics: give the name of one metric, got {one_line(f'{name!r:.60}')}.")
    try:
        return METRICS[name]
    except KeyError as error:
        raise UserError(f"metrics: {error.args[0]}") from None


def extrapolation_note(names: Iterable[str], *, nframes: int) -> list[str]:
    """A note on metrics whose clips of generated videos are longer than those of training; none if no clips are.

    Args:
        names: Names of metrics.
        nframes: Frames of a training clip, which span the times 0 to 1.
    """
    clips = [metric for metric in map(find_metric, names) if metric.samples == "clips"]
    last = {metric.name: range(0, metric.frames, metric.subsample)[-1] for metric in clips}
    longer = {name: frame for name, frame in last.items() if frame > nframes - 1 > 0}
    if not longer:
        return []
    end = max(longer.values()) / (nframes - 1)
    return [
        f"{', '.join(longer)}: generated clips show times from 0 to {end:.3g}. Training clips of {nframes} frames "
        "covered 0 to 1, the rest is extrapolated."
    ]
