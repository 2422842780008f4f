# Shared by the scripts beside it: makes a virtual environment, or says in one line what is missing.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

stop() {
    echo "$1" >&2
    exit 1
}

find_python() {
    local name
    for name in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10; do
        [ -n "$name" ] && command -v "$name" >/dev/null 2>&1 || continue
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    stop "Python 3.10 or newer is missing: install it (Debian: apt install python3 python3-venv)."
}

# make_venv FOLDER: an environment with pip in it, made once.
make_venv() {
    [ -x "$1/bin/python" ] && "$1/bin/python" -m pip --version >/dev/null 2>&1 && return
    local python
    python=$(find_python) || exit 1
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        stop "Python's venv module is missing: install it (Debian: apt install python3-venv)."
    rm -rf "$1"
    "$python" -m venv "$1" || stop "The virtual environment $1 could not be made."
}

# By uv, in a third of the time; by pip where it cannot, as pip's own settings may name an index.
install() {
    local pip=("$1/bin/python" -m pip install --quiet --disable-pip-version-check)
    [ -x "$1/bin/uv" ] || "${pip[@]}" "$(grep '^uv==' requirements-dev.txt)" || true
    "$1/bin/uv" pip install --quiet --compile-bytecode --python "$1/bin/python" "${@:2}" ||
        "${pip[@]}" "${@:2}" ||
        stop "Packages could not be installed: is the package index reachable? (see pip's lines above)"
}

# Whether the files named after the folder changed since they were installed into it.
changed() {
    local stamp=$1/.installed
    [ -f "$stamp" ] && [ "$(cat "${@:2}" | cksum)" = "$(cat "$stamp")" ] && return 1
    return 0
}

remember() {
    cat "${@:2}" | cksum >"$1/.installed"
}

# Most tests wait for processes: four at a time keep two cores busy.
in_parallel=(--numprocesses 4 --dist loadfile)
