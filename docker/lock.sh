#!/bin/sh
# Renew the locks of the image: exact versions with the hashes of the wheels for CPython 3.13 on x86-64 and aarch64. `make lock`.
# Usage: lock.sh BIN    (a virtual environment's bin folder with python and uv)
set -eu
bin=$(cd "$1" && pwd)
cd "$(dirname "$0")"
compile() {
    "$bin/uv" pip compile --quiet --universal --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
        --only-binary :all: --python-version 3.13 --output-file "$2" "$1"
}
compile ../pyproject.toml requirements.lock
"$bin/python" - <<'PY' > build-requirements.in
import tomllib
print("\n".join(tomllib.load(open("../pyproject.toml", "rb"))["build-system"]["requires"]))
PY
compile build-requirements.in build-requirements.lock
rm build-requirements.in
# A registry's address in the lock would tie the image to one network.
if grep -nE '://|index-url|find-links|file:' ./*.lock; then
    echo 'lock.sh: an address stands in the lock' >&2
    exit 1
fi
