# The program in a container, on a CPU:
#     docker build -t video3d .
#     docker run --rm -v "$PWD:/data" video3d video3d-generate --outdir out --network_pkl snapshot.pt
# With CUDA, on an image that has PyTorch and nvcc, which builds the native operators (then: docker run --gpus all …):
#     docker build -t video3d --build-arg BASE=pytorch/pytorch:2.4.0-cuda12.4-cudnn9-devel .
ARG BASE=python:3.12-slim
FROM ${BASE}

# An index of PyTorch's builds for CPUs makes the image much smaller: --build-arg PIP_EXTRA_INDEX_URL=…
ARG PIP_EXTRA_INDEX_URL=

RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip install --no-cache-dir "/src[hub,viewer,geometry,app]" && rm -rf /src

# Native operators and downloads are kept here: add a volume to keep them longer than the container. Any user may write
# to it, so that `docker run --user "$(id -u):$(id -g)"` leaves files of that user's in the mounted folder.
RUN mkdir -m 1777 /cache
ENV XDG_CACHE_HOME=/cache
WORKDIR /data
CMD ["video3d-generate", "--help"]
