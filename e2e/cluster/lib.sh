# shellcheck shell=bash disable=SC2034 # its variables are used elsewhere
# Sourced by the scripts beside it: where things are, and what the scripts share.
#
# The node is a set of namespaces (mount, pid, network, ipc, uts) whose first process is pause.
# Everything of the cluster runs in it, with a /run, /var/lib and /var/log of its own, so that no
# other Kubernetes, containerd or etcd on the machine is touched, and the kernel takes it all
# away, processes, mounts, interfaces and packet rules, when that first process is killed.
set -euo pipefail

cluster=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
state=$(dirname "$cluster")/.state
bin=$state/bin       # programs, built or unpacked
images=$state/images # image archives, and what they are built from
run=$state/run       # what lives no longer than the node
log=$state/log
export KUBECONFIG=$state/kubeconfig KUBECACHEDIR=$run/kubectl

# Two checkouts on one machine are two clusters: this number tells their networks and cgroups apart.
number=$((1 + $(cksum <<<"$state" | cut -d ' ' -f 1) % 255))
cgroup=sentinel-e2e-$number
link=sentinel-$number # the host's end of the node's network link
link_host=198.18.$number.1
link_node=198.18.$number.2

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

# One script at a time; a daemon must not inherit the lock.
lock() {
  [ "$(id -u)" = 0 ] || die "must run as root: it makes namespaces, mounts and cgroups"
  mkdir -p "$bin" "$images" "$log"
  exec 9>"$state/lock"
  flock 9
}

# step TEXT FUNCTION ARG...: one line for what takes long. What it prints goes to a log, whose end is
# shown if it fails. The function is not called from a condition, because bash then ignores set -e in it.
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

# Prints the first process of the node, as the host numbers it; nothing if there is no node.
# It is known by its program, which nothing else on the machine runs: a number in a file would be
# wrong after an interruption, or belong to another process by now.
node_pid() {
  # find fails over the processes that end while it looks.
  { find /proc -mindepth 2 -maxdepth 2 -name exe -lname "$bin/pause*" 2>/dev/null || true; } | cut -d / -f 3
}

in_node() {
  local pid
  pid=$(node_pid)
  [ -n "$pid" ] || die "there is no cluster: run $cluster/up"
  PATH=$bin:/usr/sbin:/usr/bin:/sbin:/bin nsenter --target "$pid" --mount --uts --ipc --net --pid -- "$@"
}

# until_ready SECONDS COMMAND...: tries the command until it succeeds, ten times a second.
until_ready() {
  local tries=$(($1 * 10))
  shift
  until "$@"; do
    [ $((tries -= 1)) -gt 0 ] || return 1
    sleep 0.1
  done
}

# tear_down: takes away everything of the cluster but what was built and the logs.
tear_down() {
  local pid
  pid=$(node_pid)
  if [ -n "$pid" ]; then
    kill -KILL "$pid" # and the kernel ends every other process of the node
    until_ready 60 test ! -e "/proc/$pid"
  fi
  until_ready 10 test ! -e "/sys/class/net/$link" # goes with the node's network, a moment later
  until_ready 10 remove_cgroups
  rm -rf "$run" "$KUBECONFIG"
}
remove_cgroups() {
  local ours=(find /sys/fs/cgroup -depth -type d '(' -path "*/$cgroup" -o -path "*/$cgroup/*" ')')
  "${ours[@]}" -exec rmdir {} + && [ -z "$("${ours[@]}")" ]
}

# install_packages NAME...: Debian packages that are not there yet.
install_packages() {
  local missing=() name
  for name in "$@"; do
    [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
  done
  [ ${#missing[@]} = 0 ] || step "installing ${missing[*]}" apt_install "${missing[@]}"
}
apt_install() {
  export DEBIAN_FRONTEND=noninteractive
  # A machine that has never asked, or asked long ago, does not know these packages or their present versions.
  apt-get install --yes --no-install-recommends "$@" || { apt-get update && apt-get install --yes --no-install-recommends "$@"; }
}
