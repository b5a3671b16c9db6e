# Set-up shared by the scripts beside this file; sourced, not run. Everything it makes lies under $cache, and each part
# is made once: a stamp beside it says of which version it is.

set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/gotune
bin=$cache/bin
venv_jupyter=$cache/venv-jupyter # JupyterLab, nbclient, nbconvert, jupyter_kernel_test, TensorBoard
venv_oracle=$cache/venv-oracle   # torch, transformers, peft, tensorboard: what the tests compare with

# The versions of all tools. Python packages: python/*.txt.
go_minimum=1.26.5
gonb_version=v0.11.4
goimports_version=v0.44.0
gopls_version=v0.21.1
staticcheck_version=v0.8.0

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }

die() {
    printf '\033[31merror:\033[0m %s\n' "$*" >&2
    exit 1
}

# timed WHAT COMMAND…: runs the command, says what it does and how long that took; its output goes to a log that is
# shown when it fails.
timed() {
    local what=$1 began=$SECONDS log
    shift
    log=$(mktemp)
    printf '    %s … ' "$what"
    if ! "$@" >"$log" 2>&1; then
        printf 'failed after %d s\n' $((SECONDS - began))
        tail -n 40 "$log" >&2
        rm -f "$log"
        die "$what failed: the lines above say why. Running the script again goes on from here."
    fi
    rm -f "$log"
    printf '%d s\n' $((SECONDS - began))
}

# check WHAT COMMAND…: one check of a test in shell, counted in passed or failed.
passed=0 failed=0
check() {
    local what=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
        printf 'ok   %s\n' "$what"
    else
        failed=$((failed + 1))
        printf 'FAIL %s\n' "$what"
    fi
}

# fresh STAMP VALUE: is the stamp's content the value?
fresh() { [[ -f $1 && $(<"$1") == "$2" ]]; }

need_go() {
    if ! command -v go >/dev/null && [[ -x /usr/local/go/bin/go ]]; then
        export PATH=$PATH:/usr/local/go/bin
    fi
    command -v go >/dev/null || die "Go is not installed. Get $go_minimum or later from https://go.dev/dl/ and put its bin folder on PATH."
    local have
    # From the repository's folder, where go.mod says which toolchain is wanted: a Go from 1.21 on fetches it.
    have=$(cd "$repo" && go env GOVERSION) || die "go does not run in $repo: it wants Go $go_minimum or later, see https://go.dev/dl/."
    have=${have#go}
    have=${have%% *}
    [[ $(printf '%s\n' "$go_minimum" "$have" | sort -V | head -n 1) == "$go_minimum" ]] ||
        die "Go $have is too old: $go_minimum or later is needed, from https://go.dev/dl/."
    command -v "$(cd "$repo" && go env CC)" >/dev/null ||
        die "a C compiler is needed, since devices are reached through C: apt-get install gcc libc6-dev"
}

need_python() {
    python=
    local p
    for p in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11 python3.10; do
        if command -v "$p" >/dev/null && "$p" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            python=$p
            break
        fi
    done
    [[ -n $python ]] || die "Python 3.10 or later is not installed: apt-get install python3 python3-venv"
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$("$python" --version) has no venv module: apt-get install python3-venv"
}

# venv DIR REQUIREMENTS: a Python environment with the packages of python/REQUIREMENTS.txt. The lock file beside it
# has the versions of what those need in turn, as tested with Python 3.11.
venv() {
    local dir=$1 list=$repo/scripts/python/$2.txt lock=$repo/scripts/python/$2.lock.txt stamp
    stamp=$(cat "$list" "$lock" | sha256sum | cut -d' ' -f1)
    if fresh "$dir/.gotune" "$stamp"; then
        return
    fi
    if [[ ! -x $dir/bin/python ]]; then
        timed "Python environment $dir" "$python" -m venv "$dir"
    fi
    local constraints=()
    if "$dir/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
        constraints=(-c "$lock")
    fi
    timed "its packages (python/$2.txt)" "$dir/bin/python" -m pip install --disable-pip-version-check --no-input -q -r "$list" "${constraints[@]}"
    echo "$stamp" >"$dir/.gotune"
}

# go_tool NAME MODULE VERSION PACKAGE: builds a Go program of exactly this version. A module of its own with a require
# asks for that version only, where "go install" also asks for the list of all versions.
go_tool() {
    local name=$1 module=$2 version=$3 package=$4 scratch
    if fresh "$bin/.$name" "$version" && [[ -x $bin/$name ]]; then
        return
    fi
    scratch=$(mktemp -d)
    printf 'module scratch\n\ngo %s\n\nrequire %s %s\n' "$go_minimum" "$module" "$version" >"$scratch/go.mod"
    timed "$name $version" env -C "$scratch" GOFLAGS=-mod=mod GOWORK=off go build -trimpath -ldflags='-s -w' -o "$bin/$name" "$package"
    rm -rf "$scratch"
    echo "$version" >"$bin/.$name"
}

# fetch_plugins: XLA's backend for the CPU, and for CUDA where there is a GPU, with the pip of our own Python environment;
# gotune checks their SHA-256.
fetch_plugins() {
    local -x PATH=$venv_jupyter/bin:$PATH
    timed "XLA's plugin for the CPU" "$bin/gotune" plugin fetch cpu
    [[ -e /dev/nvidia0 ]] || return 0
    local have
    if have=$("$bin/gotune" plugin show | grep '^cuda .*from the'); then
        printf "    XLA's plugin for CUDA is there: %s\n" "${have#cuda *}"
    else
        timed "XLA's plugin for CUDA, with NVIDIA's libraries (2 GB)" "$bin/gotune" plugin fetch cuda
    fi
}

build_gotune() {
    timed "gotune, from $repo" env -C "$repo" go build -trimpath -o "$bin/gotune" ./gotune/cmd/gotune
}

# setup_notebooks: all that a notebook needs, and the kernel in the cache's own JupyterLab.
setup_notebooks() {
    need_go
    need_python
    mkdir -p "$bin"
    chmod 700 "$cache"
    say "set-up under $cache (what is there already is kept)"
    go_tool gonb github.com/janpfeifer/gonb "$gonb_version" github.com/janpfeifer/gonb
    go_tool goimports golang.org/x/tools "$goimports_version" golang.org/x/tools/cmd/goimports
    go_tool gopls golang.org/x/tools/gopls "$gopls_version" golang.org/x/tools/gopls
    venv "$venv_jupyter" jupyter
    build_gotune
    fetch_plugins
    timed "kernel \"Go (gotune)\" in $venv_jupyter" "$bin/gotune" kernel install --prefix "$venv_jupyter"
}

# find_chromium: sets chromium to the system's, or to $CHROMIUM.
find_chromium() {
    local p
    for p in ${CHROMIUM:+"$CHROMIUM"} chromium chromium-browser google-chrome-stable google-chrome; do
        if chromium=$(command -v "$p"); then
            return 0
        fi
    done
    return 1
}

# setup_browser: Chromium, from Debian's or Ubuntu's packages where there is none, and what drives it.
setup_browser() {
    local how=() stamp
    if ! find_chromium; then
        if ((EUID != 0)); then
            how=(sudo -n)
            sudo -n true 2>/dev/null || how=()
        fi
        if command -v apt-get >/dev/null && ((EUID == 0 || ${#how[@]} > 0)); then
            timed "Chromium and a font, with apt-get" "${how[@]}" env DEBIAN_FRONTEND=noninteractive bash -c \
                'get() { apt-get install -y --no-install-recommends chromium fonts-dejavu-core; }; get || { apt-get update && get; }'
        fi
        find_chromium || die "the tests in JupyterLab need Chromium or Chrome: apt-get install chromium fonts-dejavu-core, or set CHROMIUM to the program's path"
    fi
    stamp=$(<"$repo/scripts/python/browser.txt")
    if ! fresh "$venv_jupyter/.browser" "$stamp"; then
        timed "playwright (python/browser.txt)" "$venv_jupyter/bin/python" -m pip install --disable-pip-version-check --no-input -q -r "$repo/scripts/python/browser.txt"
        echo "$stamp" >"$venv_jupyter/.browser"
    fi
}

# setup_tests: what the tests need beside.
setup_tests() {
    setup_browser
    go_tool staticcheck honnef.co/go/tools "$staticcheck_version" honnef.co/go/tools/cmd/staticcheck
    venv "$venv_oracle" oracle
}

# own_engine and end_own_engine: an engine for this run alone, so that it meets no models or runs of another one.
own_engine() {
    engine_dir=$(mktemp -d "${TMPDIR:-/tmp}/gotune-XXXXXX")
    export GOTUNE_SOCKET=$engine_dir/engine.sock GOTUNE_BIN=$bin/gotune GOTUNE_GONB=$bin/gonb
    export XDG_STATE_HOME=$engine_dir/state # the index of runs by name
}

end_own_engine() {
    "$venv_jupyter/bin/python" "$repo/scripts/python/end_engine.py" "$GOTUNE_SOCKET" || true
    rm -rf "$engine_dir"
}
