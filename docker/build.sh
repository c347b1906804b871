#!/bin/sh
# Build the image with whatever builds images here. Usage: build.sh [TAG] [builder option...]
set -eu
cd "$(dirname "$0")/.."
tag=${1:-tritserve:dev}
[ $# -gt 0 ] && shift
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
created=$(git log -1 --format=%cI 2>/dev/null || echo 1970-01-01T00:00:00Z)
for builder in docker podman buildah; do
    command -v "$builder" >/dev/null 2>&1 && break
    builder=
done
case $builder in
docker) set -- build "$@" ;;
podman | buildah) set -- build --format docker "$@" ;; # HEALTHCHECK is lost in the OCI format
*)
    printf 'Missing: something that builds images. Install with:\n\n    apt-get install -y buildah\n\n' >&2
    exit 1
    ;;
esac
exec "$builder" "$@" --file docker/Dockerfile --tag "$tag" \
    --build-arg "VERSION=$version" --build-arg "REVISION=$revision" --build-arg "CREATED=$created" .
