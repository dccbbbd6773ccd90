# shellcheck shell=bash disable=SC2034 # its variables are used elsewhere
# The paths and functions that the other scripts of this directory share. They source it.
#
# The node is a set of namespaces (mount, PID, network, IPC, UTS) whose first process is pause. The whole cluster runs
# in it, with its own /run, /var/lib and /var/log, so it does not touch another Kubernetes, containerd or etcd on the
# machine. When the first process is killed, the kernel removes all processes, mounts, interfaces and packet rules of
# the node.
set -euo pipefail

cluster=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
export KUBERNETES=${KUBERNETES:-1.36} # the version: one that has a directory in programs
state=$(dirname "$cluster")/.state
images=$state/images # image archives, and what they are built from
own=$state/$KUBERNETES
bin=$own/bin # programs, built or unpacked
run=$own/run # everything that is removed with the node
log=$own/log
export KUBECONFIG=$own/kubeconfig KUBECACHEDIR=$run/kubectl

# Two checkouts on one machine, or two versions, are two clusters. This number makes their networks and cgroups
# different.
number=$((1 + $(cksum <<<"$own" | cut -d ' ' -f 1) % 255))
cgroup=sentinel-e2e-$number
link=sentinel-$number # the host's end of the node's network link
link_host=198.18.$number.1
link_node=198.18.$number.2

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

# Waits until no other script runs. Daemons are started without descriptor 9, so that they do not hold the lock.
lock() {
  [ "$(id -u)" = 0 ] || die "must run as root, because it makes namespaces, mounts and cgroups"
  mkdir -p "$bin" "$images" "$log"
  exec 9>"$state/lock"
  flock 9
}

# step TEXT FUNCTION ARG...: calls the function and prints one line about it. The function's output goes to a log; if
# it fails, the end of the log is printed. Do not call step in a condition: bash would ignore set -e in the function.
exec 3>&1
step() {
  local start=$SECONDS
  step_log=$log/${2}.log
  printf '%s ... ' "$1" >&3
  trap 'step_failed' EXIT
  shift
  "$@" >"$step_log" 2>&1
  trap - EXIT
  echo "$((SECONDS - start)) s" >&3
}
step_failed() {
  echo "failed; the end of $step_log:" >&3
  tail -n 30 "$step_log" >&3
}

# Prints the PID of the node's first process, in the host's PID namespace; nothing if there is no node. It finds the
# process by its program, which nothing else on the machine runs. A PID in a file could be outdated and belong to
# another process.
node_pid() {
  # find fails if a process ends while it looks.
  { find /proc -mindepth 2 -maxdepth 2 -name exe -lname "$bin/pause*" 2>/dev/null || true; } | cut -d / -f 3
}

# in_node COMMAND ARG...: runs a command in the node's namespaces.
in_node() {
  local pid
  pid=$(node_pid)
  [ -n "$pid" ] || die "no cluster is running: run $cluster/up first"
  PATH=$bin:/usr/sbin:/usr/bin:/sbin:/bin nsenter --target "$pid" --mount --uts --ipc --net --pid -- "$@"
}

# until_ready SECONDS COMMAND...: runs the command until it succeeds, every 0.1 s. It fails after SECONDS*10 attempts.
until_ready() {
  local tries=$(($1 * 10))
  shift
  until "$@"; do
    [ $((tries -= 1)) -gt 0 ] || return 1
    sleep 0.1
  done
}

# tear_down: removes the cluster, but not what was built, and not the logs.
tear_down() {
  local pid
  pid=$(node_pid)
  if [ -n "$pid" ]; then
    kill -KILL "$pid" # the kernel then kills every other process of the node
    until_ready 60 test ! -e "/proc/$pid"
  fi
  until_ready 10 test ! -e "/sys/class/net/$link" # the kernel removes it a moment later
  until_ready 10 remove_cgroups
  rm -rf "$run" "$KUBECONFIG"
}
remove_cgroups() {
  local ours=(find /sys/fs/cgroup -depth -type d '(' -path "*/$cgroup" -o -path "*/$cgroup/*" ')')
  "${ours[@]}" -exec rmdir {} + && [ -z "$("${ours[@]}")" ]
}

# install_packages NAME...: installs those Debian packages that are missing.
install_packages() {
  local missing=() name
  for name in "$@"; do
    [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
  done
  [ ${#missing[@]} = 0 ] || step "installing ${missing[*]}" apt_install "${missing[@]}"
}
apt_install() {
  export DEBIAN_FRONTEND=noninteractive
  # The machine's package lists may be missing or outdated.
  apt-get install --yes --no-install-recommends "$@" ||
    { apt-get update && apt-get install --yes --no-install-recommends "$@"; }
}
