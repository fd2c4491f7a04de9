#!/usr/bin/env bash
# FVD between 2048 generated and 2048 real clips of 16 frames:
#     ./evaluate.sh DATASET NETWORK_PKL OUTDIR [RESOLUTION [further options of python -m metrics]]
set -eu
if [ $# -lt 3 ]; then
    echo "usage: ./evaluate.sh DATASET NETWORK_PKL OUTDIR [RESOLUTION, default the generator's] [options of python -m metrics]" >&2
    exit 2
fi
here=$(dirname -- "$(readlink -f -- "$0")")
python=python3
[ -x "$here/.venv/bin/python" ] && python=$here/.venv/bin/python
resolution=()
options=("${@:4}")
if [ $# -ge 4 ] && [[ $4 != -* ]]; then
    resolution=(--resolution "$4")
    options=("${@:5}")
fi
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
# As `python -m metrics` from this folder: from another one, a package `metrics` there would come first.
start='import sys; sys.path[0] = sys.argv.pop(1); import runpy; runpy.run_module("metrics", None, "__main__", True)'
exec "$python" -c "$start" "$here" --metrics fvd2048_16f --real "$1" --fake "$2" --outdir "$3" \
    ${resolution[@]+"${resolution[@]}"} ${options[@]+"${options[@]}"}
