#!/usr/bin/env bash
# Videos of ten (or the given) seeds along the four camera paths of the paper:
#     ./visualize.sh NETWORK_PKL OUTDIR [SEEDS] [further options of generate.py]
set -eu
if [ $# -lt 2 ]; then
    echo "usage: ./visualize.sh NETWORK_PKL OUTDIR [SEEDS, default 0-9] [options of generate.py]" >&2
    exit 2
fi
here=$(dirname -- "$(readlink -f -- "$0")")
python=python3
[ -x "$here/.venv/bin/python" ] && python=$here/.venv/bin/python
seeds=0-9
options=("${@:3}")
if [ $# -ge 3 ] && [[ $3 != -* ]]; then
    seeds=$3
    options=("${@:4}")
fi
programs=(--render_program rotation_camera_yaw,rotation_camera_yaw_pitch,front,front_zoom)
for option in ${options[@]+"${options[@]}"}; do
    if [[ $option =~ ^--camera[_-]path(=|$) ]]; then
        programs=()  # the cameras of the file instead
    fi
done
exec "$python" "$here/generate.py" --network_pkl "$1" --outdir "$2" --seeds "$seeds" \
    ${programs[@]+"${programs[@]}"} ${options[@]+"${options[@]}"}
