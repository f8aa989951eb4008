# shellcheck shell=bash
# What deploy/demo, deploy/test and .ci/run share: the tools that a fresh Debian machine lacks.
#
# As root, missing packages are installed with apt-get. As an ordinary user nothing is changed: the
# one command that installs them is printed and the script ends with code 3.
#
# To be sourced after `cd` to the top of the workspace.

readonly EXIT_SETUP=3

say() {
    printf '%s %s\n' "$(date +%H:%M:%S)" "$*" >&2
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit "$EXIT_SETUP"
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# A PostgreSQL server of any version: Debian keeps its programs off the PATH.
have_postgres() {
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || have initdb
}

# Prints the Debian packages that are missing, one on each line.
missing_packages() {
    have_postgres || echo postgresql
    # The C compiler builds zstd, ring and mimalloc and links everything.
    have cc || echo build-essential
    have setpriv || echo util-linux
    have runuser || echo util-linux
    [[ -e /etc/ssl/certs/ca-certificates.crt ]] || echo ca-certificates
    local package
    for package in "$@"; do
        have "$package" || echo "$package"
    done
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >&2
}

# Installs PostgreSQL without the cluster that Debian would create and start: Verst's tests and demo
# bring up private ones.
install_postgres() {
    local defaults=/etc/postgresql-common/createcluster.conf status=0
    apt_install postgresql-common
    cp -p "$defaults" "$defaults.before-verst"
    echo 'create_main_cluster = false' >>"$defaults"
    apt_install postgresql || status=$?
    mv "$defaults.before-verst" "$defaults"
    return "$status"
}

# install_packages [COMMAND...]: the base, and commands whose package has the same name.
install_packages() {
    local missing
    mapfile -t missing < <(missing_packages "$@" | sort -u)
    ((${#missing[@]})) || return 0
    have apt-get || fail "missing: ${missing[*]}; install them (this is not a Debian machine)"
    if ((EUID != 0)); then
        fail "missing: ${missing[*]}; install with: sudo apt-get install -y ${missing[*]}"
    fi
    say "installing: ${missing[*]}"
    apt-get update -q >&2
    local package
    for package in "${missing[@]}"; do
        case $package in
            postgresql) install_postgres ;;
            *) apt_install "$package" ;;
        esac
    done
}

# Whether version $1 is at least version $2.
at_least() {
    [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]
}

wanted_rust() {
    sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml
}

rust_is_new_enough() {
    local found
    have cargo || return 1
    found=$(cargo --version 2>/dev/null | cut -d ' ' -f 2)
    [[ -n $found ]] && at_least "$found" "$(wanted_rust)"
}

# The version of a package that apt-get would install, empty when there is none.
candidate_version() {
    apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: \([0-9].*\)/\1/p'
}

# Makes `cargo` available in at least the workspace's rust-version.
ensure_rust() {
    if [[ -d ${CARGO_HOME:-$HOME/.cargo}/bin ]]; then
        PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    fi
    rust_is_new_enough && return 0
    local wanted
    wanted=$(wanted_rust)
    if have rustup; then
        say "installing the stable Rust toolchain with rustup"
        rustup toolchain install stable --profile minimal --component clippy,rustfmt >&2
        rustup default stable >&2
        rust_is_new_enough && return 0
    elif ((EUID == 0)) && have apt-get; then
        apt-get update -q >&2
        if at_least "$(candidate_version cargo)" "$wanted"; then
            say "installing Debian's cargo"
            apt_install cargo rustc rustfmt rust-clippy
        elif [[ -n $(candidate_version rustup) ]]; then
            say "installing Debian's rustup and the stable toolchain"
            apt_install rustup
            rustup toolchain install stable --profile minimal --component clippy,rustfmt >&2
            rustup default stable >&2
        fi
        rust_is_new_enough && return 0
    fi
    fail "Rust $wanted or newer is needed (found: $(cargo --version 2>/dev/null || echo none));" \
        "install it with: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"
}

# ensure_for_check COMMAND: makes available what only a check needs, from the package of its name.
# False for an ordinary user without it, who is told so and goes without the check.
ensure_for_check() {
    have "$1" && return 0
    if ((EUID != 0)) || ! have apt-get; then
        echo "skipped: $1 is not installed; install it with: sudo apt-get install -y $1"
        return 1
    fi
    install_packages "$1" || fail "$1 could not be installed with apt-get"
}

# What deny.toml is written for, or newer.
readonly CARGO_DENY=0.20.2

have_cargo_deny() {
    local found
    found=$(cargo deny --version 2>/dev/null | cut -d ' ' -f 2)
    [[ -n $found ]] && at_least "$found" "$CARGO_DENY"
}

# Makes `cargo deny` available, which no Debian package has. False for an ordinary user without it.
ensure_cargo_deny() {
    have_cargo_deny && return 0
    local install=(cargo install cargo-deny --version "$CARGO_DENY" --locked)
    if ((EUID != 0)); then
        echo "skipped: cargo-deny $CARGO_DENY is not installed; install it with: ${install[*]}"
        return 1
    fi
    say "building cargo-deny $CARGO_DENY: some three minutes on two cores"
    "${install[@]}" >&2 || fail "cargo-deny could not be built with: ${install[*]}"
}
