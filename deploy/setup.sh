#!/bin/bash
# Readies this machine: Debian packages, virtual environment, generated stubs, a snapshot of the code, the command.
#
#   deploy/setup.sh run    what `make run` needs; as root
#   deploy/setup.sh test   the same, and what the tests need; as root
#   deploy/setup.sh fake   a cloud without virtual machines; as any user, installs no Debian package
#   deploy/setup.sh code   the snapshot alone, for tests: no package, and `mallee` stays what it was
#
# Repeating it does only what is missing. A requirement that is not met is one line on stderr and exit status 1.
set -euo pipefail
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/.."

goal="${1:-run}"
policy=/usr/sbin/policy-rc.d
policy_mark='# written by deploy/setup.sh of mallee, for the time of an installation'
python=/usr/bin/python3

main() {
    check_platform
    if [ "$(id -u)" = 0 ]; then
        prefix=/opt/mallee commands=/usr/local/bin
    else
        prefix="${XDG_DATA_HOME:-$HOME/.local/share}/mallee" commands="$HOME/.local/bin"
    fi
    mkdir -p "$prefix"
    exec 8>"$prefix/.setup.lock"
    flock 8
    case "$goal" in run|test) install_packages deploy/packages.txt ;; esac
    [ "$goal" != test ] || install_packages deploy/packages-test.txt
    check_programs
    make_venv
    make_stubs
    make_snapshot
}

fail() { printf 'mallee: %s\n' "$1" >&2; exit 1; }
say() { printf '%s\n' "$1" >&2; }

check_platform() {
    case "$goal" in run|test) ;; fake|code) return ;; *) fail "unknown goal '$goal': use run, test, fake or code" ;; esac
    local ID='' VERSION_ID=''
    # shellcheck disable=SC1091
    [ ! -r /etc/os-release ] || . /etc/os-release
    [ "$ID $VERSION_ID" = "debian 12" ] ||
        fail "this is '${ID:-unknown} ${VERSION_ID:-}', and only Debian 12 is supported: use a Debian 12 machine"
    [ "$(uname -m)" = x86_64 ] || fail "this is $(uname -m), and only x86_64 is supported: use an x86_64 machine"
    [ "$(id -u)" = 0 ] ||
        fail "virtual machines and networks need root: run it as root, or 'make run-fake' for a cloud without them"
    local need_mib=6144 free_mib
    free_mib=$(df -Pm /opt | awk 'NR == 2 { print $4 }')
    [ "$free_mib" -ge "$need_mib" ] ||
        fail "/opt has $free_mib MiB free and $need_mib MiB are needed: make room there"
}

check_programs() {
    local program package
    for package in etcd:etcd-server s6-svscan:s6 python3:python3; do
        program=${package%%:*} package=${package#*:}
        PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null ||
            fail "$program is missing: have an administrator run 'apt-get install $package'"
    done
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "Python's venv module is missing: have an administrator run 'apt-get install python3-venv'"
}

# No daemon is started by the installation (policy-rc.d), nor at the next boot (units of packages we brought).
install_packages() {
    local wanted missing before log
    wanted=$(sed 's/#.*//' "$1" | xargs)
    # shellcheck disable=SC2086
    missing=$(comm -23 <(printf '%s\n' $wanted | sort) <(installed))
    [ -n "$missing" ] || return 0
    say "Installing $(wc -l <<<"$missing") Debian packages …"
    before=$(installed)
    log=$(mktemp /tmp/mallee-apt.XXXXXX)
    forbid_daemons
    # shellcheck disable=SC2086
    if ! { apt_get update && apt_get install -y --no-install-recommends $missing; } >"$log" 2>&1 </dev/null; then
        allow_daemons
        tail -n 15 "$log" >&2
        fail "Debian packages could not be installed (whole log: $log): repair apt, then run this again"
    fi
    allow_daemons
    rm -f "$log"
    comm -13 <(printf '%s\n' "$before") <(installed) | grep -E '^(etcd|libvirt|prometheus)' | disable_units || true
}

installed() { dpkg-query -W -f '${db:Status-Status} ${Package}\n' | awk '$1 == "installed" { print $2 }' | sort -u; }

apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" 8>&-; }

forbid_daemons() {
    # One that a killed run left behind is ours already.
    if [ -e "$policy" ] && ! grep -qF "$policy_mark" "$policy"; then mv "$policy" "$policy.saved-by-mallee"; fi
    trap allow_daemons EXIT
    printf '#!/bin/sh\n%s\nexit 101\n' "$policy_mark" >"$policy"
    chmod 755 "$policy"
}

allow_daemons() {
    if [ -e "$policy" ] && grep -qF "$policy_mark" "$policy"; then rm -f "$policy"; fi
    if [ -e "$policy.saved-by-mallee" ]; then mv "$policy.saved-by-mallee" "$policy"; fi
    trap - EXIT
}

disable_units() {
    command -v systemctl >/dev/null || return 0
    local package units
    while read -r package; do
        units=$(dpkg -L "$package" | sed -nE 's,^(/usr)?/lib/systemd/system/([^/@]+\.(service|socket|timer))$,\2,p')
        # shellcheck disable=SC2086
        [ -z "$units" ] || systemctl --quiet --no-reload disable $units 2>/dev/null || true
    done
}

# Complete or not there: the marker is written last, and a folder without it is made afresh.
make_venv() {
    local id venv lock=requirements.lock
    id=$(sha256sum "$lock" | cut -c1-12)
    [ "$(id -u)" = 0 ] || id="$id-fake"
    venv="$prefix/venv-$id"
    if [ ! -e "$venv/.complete" ]; then
        say "Installing Python packages into $venv …"
        rm -rf "$venv"
        "$python" -m venv "$venv"
        local wanted log
        wanted=$(mktemp /tmp/mallee-lock.XXXXXX) log=$(mktemp /tmp/mallee-pip.XXXXXX)
        # libvirt-python is compiled against libvirt, which a cloud without virtual machines does not need.
        case "$id" in
            *-fake) awk '/^[^ ]/ { skip = /^libvirt-python==/ } !skip' "$lock" >"$wanted" ;;
            *) cat "$lock" >"$wanted" ;;
        esac
        if ! "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-input --require-hashes --no-deps \
            -r "$wanted" >"$log" 2>&1 </dev/null; then
            tail -n 15 "$log" >&2
            rm -rf "$venv" "$wanted"
            fail "Python packages could not be installed (whole log: $log): check pip's index, then run this again"
        fi
        rm -f "$wanted" "$log"
        touch "$venv/.complete"
    fi
    [ "$(readlink .venv)" = "$venv" ] || ln -sfn "$venv" .venv 2>/dev/null || true
    bin="$venv/bin"
}

make_stubs() {
    if [ ! -d gen/mallee ] || [ -n "$(find proto tools/gen.sh -newer gen -print -quit)" ]; then
        say "Generating stubs …"
        local log
        log=$(mktemp /tmp/mallee-gen.XXXXXX)
        PYTHON="$bin/python" tools/gen.sh >"$log" 2>&1 || { cat "$log" >&2; fail "proto/ could not be compiled"; }
        rm -f "$log"
        touch gen
    fi
}

# Services run as a user who may not read a checkout in /root, and keep running the code they were started with.
make_snapshot() {
    local parts="common services ec2_facade cli images deploy gen" id lib
    # shellcheck disable=SC2086
    id=$({ find $parts -type f ! -path '*/__pycache__/*' -print0 | sort -z | xargs -0 sha256sum; echo "$bin"; } |
        sha256sum | cut -c1-12)
    lib="$prefix/lib-$id"
    if [ ! -e "$lib" ]; then
        local new
        rm -rf "$prefix"/.lib-*
        new=$(mktemp -d "$prefix/.lib-XXXXXX")
        # shellcheck disable=SC2086
        tar -c --exclude=__pycache__ $parts | tar -x -C "$new" --no-same-owner
        "$bin/python" -m compileall -q -j 0 "$new" >&2 || true
        mkdir "$new/bin"
        printf '#!/bin/sh\nexec env PYTHONPATH=%s %s/python -P -m cli.main "$@"\n' "$lib:$lib/gen" "$bin" \
            >"$new/bin/mallee"
        chmod 755 "$new" "$new/bin/mallee"
        mv -T "$new" "$lib" 2>/dev/null || rm -rf "$new"
    fi
    touch "$lib"
    if [ "$goal" != code ]; then
        mkdir -p "$commands"
        ln -sfn "$lib/bin/mallee" "$commands/mallee"
    fi
    forget_old_snapshots
    printf '%s\n' "$lib/bin/mallee"
}

# Those of another day that no process runs from and no command points to.
forget_old_snapshots() {
    local old
    find "$prefix" -maxdepth 1 -name 'lib-*' -mmin +1440 | while read -r old; do
        [ "$(readlink "$commands/mallee")" = "$old/bin/mallee" ] || grep -qsF "$old" /proc/[0-9]*/environ ||
            rm -rf "$old"
    done
}

main
