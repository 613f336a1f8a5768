#!/usr/bin/env bash
# Builds the image on a bare Debian and runs it. It must be healthy, answer a step and stop on SIGTERM.
#
#   deploy/test_image.sh [WORKDIR]     as root; WORKDIR (build/image) has the base for the next run
#
# It needs buildah and debootstrap, but no container engine and no daemon. The build has this machine's pip
# settings, so it finds packages where the machine does.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(realpath -m "${1:-build/image}")
image=localhost/carousel:test base=localhost/carousel-base:bookworm
mkdir -p "$work"

for tool in buildah debootstrap python3; do
  command -v "$tool" >/dev/null || { echo "test_image: SKIPPED: $tool is missing"; exit 77; }
done
export BUILDAH_ISOLATION=chroot
buildah() { command buildah --root "$work/storage" --runroot "$work/run" "$@"; }

if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
  echo "== a bare Debian with python3"
  [ -x "$work/base/usr/bin/python3" ] || debootstrap --variant=minbase \
    --include=python3,python3-venv,ca-certificates bookworm "$work/base" >"$work/debootstrap.log"
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$work/base" / >/dev/null
  buildah commit --quiet --rm "$container" "$base" >/dev/null
fi

# pip's settings here, as one file, and every local path that they name; of an index in a folder also its
# parent, where its links may lead. Only the build sees these mounts: nothing of them is in the image.
python3 -m pip config list | sed -nE "s/^(global|:env:)\.([a-z-]+)='(.*)'$/\2 = \3/p" |
  awk -F ' = ' '!seen[$1]++' | sed '1i [global]' >"$work/pip.conf"
mounts=(--volume "$work/pip.conf:/etc/pip.conf:ro")
named=$(grep -oE '(^|[ =]|file://)/[^ ]+' "$work/pip.conf" || true)
for path in $(sed -E 's#^[ =]+##; s#^file://(/.+)/[^/]+/?$#\1#' <<<"$named" | sort -u); do
  [ ! -e "$path" ] || mounts+=(--volume "$path:$path:ro")
done

echo "== the image"
buildah build --quiet --format docker --layers --build-arg BASE="$base" "${mounts[@]}" \
  --file deploy/Dockerfile --tag "$image" . >/dev/null
buildah inspect --type image --format '{{.Docker.Config.User}} {{.Docker.Config.Entrypoint}}{{println}}' "$image"

echo "== a container"
container=$(buildah from "$image")
server=
cleanup() {
  [ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true
  buildah rm "$container" >/dev/null
}
trap cleanup EXIT
read -ra entrypoint < <(buildah inspect --type image \
  --format '{{range .Docker.Config.Entrypoint}}{{.}} {{end}}{{println}}' "$image")
models=()
[ -z "${MODELS:-}" ] || models=(--volume "$(realpath "$MODELS"):/models:ro" --env CAROUSEL_MODELS=/models)
: >"$work/ready.json"
buildah run "${models[@]}" "$container" -- "${entrypoint[@]}" \
  --host 127.0.0.1 --port 0 --http-port 0 --metrics-port 0 >"$work/ready.json" 2>"$work/server.log" &
runner=$!
for ((waited_s = 0; waited_s < 120; waited_s++)); do
  grep -q '"ready"' "$work/ready.json" && break
  kill -0 "$runner" 2>/dev/null || break
  sleep 1
done
grep -q '"ready"' "$work/ready.json" || { cat "$work/server.log"; echo "test_image: it did not start"; exit 1; }
# buildah does not forward signals, so the signal is sent to the server itself, its last descendant.
server=$runner
while child=$(pgrep -P "$server" | head -n 1) && [ -n "$child" ]; do server=$child; done
port=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["port"])' <"$work/ready.json")
metrics_port=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["metrics_port"])' <"$work/ready.json")
echo "user $(stat -c %u "/proc/$server"), port $port"

echo "== its health check and a step"
inside() { buildah run --env CAROUSEL_METRICS_PORT="$metrics_port" "$container" -- "$@"; }
read -ra check < <(buildah inspect --type image \
  --format '{{range slice .Docker.Config.Healthcheck.Test 1}}{{.}} {{end}}{{println}}' "$image")
inside "${check[@]}"
inside python -c "$(cat deploy/one_step.py)" "127.0.0.1:$port"

echo "== SIGTERM"
kill -TERM "$server"
wait "$runner" && code=0 || code=$?
server=
[ "$code" = 0 ] || { cat "$work/server.log"; echo "test_image: it ended with $code"; exit 1; }
echo "test_image: passed"
