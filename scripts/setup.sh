#!/usr/bin/env bash
# Create the virtual environment and install fibo_robot into it, with what that needs from the system.
#
#   bash scripts/setup.sh [VENV [OVERRIDES]]        (normally called by `make setup`)
#
# The versions are those of constraints.txt, except for the packages that the file OVERRIDES names.
# System packages are installed where this script may (root with apt-get); elsewhere it names them and stops
# before anything is half-installed. PYTHON=/path/to/python chooses the interpreter (3.11 or 3.12).
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${1:-.venv}"
overrides="${2:-}"

say() { printf 'setup: %s\n' "$*" >&2; }
stop() { say "$*"; exit 1; }

# --- Python -----------------------------------------------------------------------------------------------

is_supported_python() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
        if is_supported_python "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    if [ -n "${PYTHON:-}" ]; then
        stop "PYTHON=$PYTHON is not a working Python 3.11 or 3.12."
    fi
    stop "Python 3.11 or 3.12 is needed (found: $(python3 --version 2>&1 || true))." \
         "On Debian 12: apt-get install python3 python3-venv. Or set PYTHON=/path/to/python3.11."
}

# --- System packages --------------------------------------------------------------------------------------

missing_packages=()

# need PACKAGE CHECK...: the package is missing unless the check succeeds.
need() {
    local package="$1"
    shift
    "$@" >/dev/null 2>&1 || missing_packages+=("$package")
}

has_library() { PATH="$PATH:/usr/sbin:/sbin" ldconfig -p | grep -F "$1 " >/dev/null; }
has_gl_driver() {
    has_library libEGL_nvidia.so.0 || compgen -G '/usr/lib*/*/dri/swrast_dri.so' || compgen -G '/usr/lib*/dri/swrast_dri.so'
}
has_header() { printf '#include <%s>\n' "$1" | gcc -x c ${2:+"$2"} -fsyntax-only -; }

check_system() {
    local python="$1" version
    version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    # Headless rendering: EGL (with Mesa's software driver where there is no GPU's), OSMesa beside it.
    need libegl1 has_library libEGL.so.1
    need libgl1-mesa-dri has_gl_driver
    need libosmesa6 has_library libOSMesa.so.8
    # OpenCV links to these.
    need libgl1 has_library libGL.so.1
    need libglib2.0-0 has_library libgthread-2.0.so.0
    # Debian ships Python without the module that puts pip into a new environment.
    need "python$version-venv" "$python" -c 'import ensurepip, venv'
    # Nothing is compiled during the installation. On an NVIDIA GPU Triton compiles a launcher in C when a
    # kernel first runs.
    if has_library libcuda.so.1; then
        need gcc command -v gcc
        need libc6-dev has_header stdio.h
        need "python$version-dev" has_header Python.h "-I$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')"
    fi
}

install_system_packages() {
    [ "${#missing_packages[@]}" -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null; then
        stop "these Debian packages, or what your system calls them, are missing: ${missing_packages[*]}"
    fi
    if [ "$(id -u)" -ne 0 ]; then
        stop "system packages are missing. Please run: sudo apt-get install ${missing_packages[*]}"
    fi
    say "installing system packages: ${missing_packages[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing_packages[@]}" >/dev/null
}

# --- The environment --------------------------------------------------------------------------------------

python="$(find_python)"
check_system "$python"
install_system_packages

if ! is_supported_python "$venv/bin/python" || [ ! -x "$venv/bin/pip" ]; then
    say "creating $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi

# Packages that would have to be compiled, or that hold numpy below 2, are stood in for: stand_ins.py says why.
"$venv/bin/python" scripts/stand_ins.py "$venv/stand-ins" >/dev/null

constraints=constraints.txt
if [ -n "$overrides" ]; then
    constraints="$venv/constraints.txt"
    awk -F '[=<>]' 'NR == FNR { replaced[$1]; print; next } !($1 in replaced)' "$overrides" constraints.txt >"$constraints"
fi

say "installing fibo_robot and what it depends on into $venv (a few minutes the first time)"
"$venv/bin/pip" install --quiet --use-pep517 --constraint "$constraints" \
    "$venv"/stand-ins/*.whl --editable '.[test,sim,warp,pusht,parquet,ray,transformers,slurm,docs]'
say "done; \`$venv/bin/fibo doctor\` checks the simulator, rendering and video decoding on this machine"
