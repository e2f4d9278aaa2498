# Sourced by the other scripts: where things are, installing what is missing, building, and the MPI settings that a
# laptop or a container needs. Nothing here asks a question.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    echo "this needs root, and there is no sudo: $*" >&2
    return 1
  fi
}

# install_packages PACKAGE...: those that are missing, with apt.
install_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || { echo "missing packages: ${missing[*]}; install them by hand (this is no Debian)" >&2; exit 1; }
  say "installing with apt: ${missing[*]}"
  as_root apt-get -o DPkg::Lock::Timeout=600 -qq update
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -qq install -y --no-install-recommends \
    "${missing[@]}" >/dev/null
}

# build PRESET [-DOPTION=...]: configures and builds into build/PRESET.
build() {
  say "building (preset $1)"
  cmake --preset "$@" >/dev/null
  cmake --build "build/$1"
}

# Open MPI refuses root and more ranks than cores unless told otherwise, binds one or two ranks to a core each, and
# spins while it waits.
if [ "$(id -u)" -eq 0 ]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
