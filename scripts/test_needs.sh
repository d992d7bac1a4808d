#!/usr/bin/env bash
# What the tests need from the system beyond what the package needs: Chromium, in which reports are opened.
#
#   bash scripts/test_needs.sh          (called by `make test`)
#
# Installed where this script may; elsewhere it says what is left out, and the tests that need it skip.
set -euo pipefail

say() { printf 'test: %s\n' "$*" >&2; }

for browser in chromium chromium-browser google-chrome; do
    command -v "$browser" >/dev/null && exit 0
done
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    say "installing chromium, in which the tests open reports"
    apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null && exit 0
    say "chromium could not be installed"
fi
say "without Chromium the tests that open a report are left out (sudo apt-get install chromium)"
