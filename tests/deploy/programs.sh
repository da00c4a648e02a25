#!/usr/bin/env bash
# What the deployment is checked with where Docker is not: an OpenTelemetry Collector of the core components, built from
# Debian's library packages; Docker Compose, Prometheus and Alertmanager as Debian unstable has them; and, for root, the
# system that the image stands on.
#
#   programs.sh FOLDER     fills FOLDER/bin and FOLDER/base; nothing is installed into the system. 450 MB, five minutes.
#
# Debian unstable is read by a configuration of its own, from wherever this machine gets Debian from.
set -euo pipefail
mkdir -p "$1"
folder=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)

debian=$(apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "Debian" && $2 == "Debian" { print $3; exit }')
[ -n "$debian" ] || { echo "needs a Debian machine, and apt-get update to have run" >&2; exit 1; }

mkdir -p "$folder"/{bin,lists/partial,debs,archives/partial}
cd "$folder"
: >status
cat >sources.list <<END
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $debian sid main
END
apt=(-q -o "Dir::State::lists=$folder/lists" -o "Dir::State::status=$folder/status" -o "Dir::Cache::archives=$folder/archives"
    -o "Dir::Etc::sourcelist=$folder/sources.list" -o Dir::Etc::sourceparts=- -o "APT::Sandbox::User=$(id -un)"
    -o "Debug::NoLocking=true")

apt-get "${apt[@]}" update
apt-get "${apt[@]}" install --download-only --no-install-recommends -y golang-opentelemetry-collector-dev golang-go
(cd debs && apt-get "${apt[@]}" download docker-compose prometheus promtool prometheus-alertmanager debootstrap)
for package in archives/golang*.deb debs/*.deb; do
    dpkg --extract "$package" root
done
cp root/usr/bin/{prometheus,promtool,prometheus-alertmanager,amtool} root/usr/libexec/docker/cli-plugins/docker-compose bin/

mkdir -p src/otelcol
cp "$here/collector.go" src/otelcol/main.go
GOROOT=$(echo "$folder"/root/usr/lib/go-[0-9]*) GOPATH="$folder:$folder/root/usr/share/gocode" GOCACHE="$folder/cache" \
    GO111MODULE=off GOTOOLCHAIN=local CGO_ENABLED=0 \
    sh -c '"$GOROOT/bin/go" build -o bin/otelcol otelcol'

if [ "$(id -u)" = 0 ] && [ ! -x base/usr/local/bin/python ]; then
    suite=$(sed -n 's/^FROM .*-slim-\([a-z]*\).*/\1/p' "$here/../../Dockerfile" | head -n 1)
    DEBOOTSTRAP_DIR=root/usr/share/debootstrap sh root/usr/sbin/debootstrap --variant=minbase \
        --include=ca-certificates,python3,python3-venv "$suite" base "$debian"
    # As the official image has it; and what this machine needs to reach its package index.
    ln -s /usr/bin/python3 base/usr/local/bin/python
    cp --dereference /etc/resolv.conf base/etc/resolv.conf
    cp --dereference /etc/ssl/certs/ca-certificates.crt base/etc/ssl/certs/ca-certificates.crt
fi

for package in golang-opentelemetry-collector-dev docker-compose prometheus prometheus-alertmanager; do
    ls archives debs | grep "^${package}_"
done
