"""Stages in order of importance, with their time limits."""

from dataclasses import dataclass

__all__ = ["STAGES", "Stage"]


@dataclass(frozen=True)
class Stage:
    """A stage: module and function that run it, seconds it may take, and the least that makes sense."""

    title: str
    function: str  # 'module:function' within benchmarks.gpu
    limit: float
    least: float = 15


STAGES = {
    "environment": Stage("Machine", "machine:environment", 60),
    "operators": Stage("Native operators", "operators:operators", 150, 30),
    "goldens": Stage("Published models against the original", "networks:goldens", 100, 30),
    "phases": Stage("Phases of training, FaceForensics 256²", "phases:phases", 120, 20),
    "rendering": Stage("Rendering, FaceForensics 256²", "networks:rendering", 60, 20),
    "synchronisation": Stage("Waits of the host within an iteration", "phases:synchronisation", 45),
    "nccl": Stage("Process group", "machine:nccl", 45),
    "data": Stage("Data loader", "training:data", 45),
    "small": Stage("Phases of the small model", "phases:small", 90),
    "training": Stage("Short trainings", "training:training", 150, 50),
    "metrics": Stage("Metrics on the device and on the CPU", "machine:metrics", 40),
}
