# Sourced: Debian packages.

# Installs those of the named packages that are missing; does not ask apt for anything if none is.
install_missing() {
    missing=
    for package in "$@"; do
        dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
    done
    [ -n "$missing" ] || { echo "all there: $*"; return 0; }
    as_root=
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || { echo "run as root, or install sudo, or: apt-get install$missing" >&2; exit 77; }
        as_root=sudo
    fi
    echo "installing:$missing"
    # The lock time-out lets another apt finish first.
    $as_root apt-get -o DPkg::Lock::Timeout=300 update
    # $missing is a list on purpose.
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $missing
}
