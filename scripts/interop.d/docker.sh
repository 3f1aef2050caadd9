#!/usr/bin/env bash
# Docker's syslog driver: docker.sh ADDRESS MESSAGE... A daemon of its own in this directory, and a container that
# prints the messages.
set -euo pipefail
address=$1
shift

readonly host=unix://$PWD/docker.sock
dockerd --host "$host" --data-root "$PWD/docker" --exec-root "$PWD/exec" --pidfile "$PWD/docker.pid" \
    --storage-driver vfs --bridge none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false &
until docker --host "$host" version >/dev/null 2>&1; do
    kill -0 %1
    sleep 0.1
done

mkdir image
cp "$(command -v busybox)" image
tar --directory image --create . | docker --host "$host" import - image
docker --host "$host" run --network none --log-driver syslog --log-opt syslog-address="$address" \
    --log-opt syslog-tls-ca-cert="$SSL_CERT_FILE" --log-opt syslog-format=rfc3164 --log-opt tag="$TOKEN" \
    image /busybox printf '%s\n' "$@"

# Until all is stored.
cat
kill %1
wait %1
