#!/usr/bin/env bash
# Runs the main command on all workers of a Cloud TPU VM slice.
#
#   launch/tpu_pod.sh --name=TPU --zone=ZONE [options] --config=FILE --workdir=DIR [any other flag of main]
#   launch/tpu_pod.sh --name=TPU --zone=ZONE --status | --logs | --stop
#   launch/tpu_pod.sh --zone=ZONE --list
#
# It copies one commit of the repository to every worker, installs it there in a virtual environment with the extras
# tpu and demo, and starts main with --multihost. The run goes on when the connection ends. DIR must be a path that all
# workers share: a Filestore (NFS) or gcsfuse mount at the same place on each, such as /mnt/shared/runs/mine.
#
#   --project=P     the project, if it is not gcloud's default
#   --commit=REF    the commit to run (default HEAD); uncommitted changes are not copied
#   --status        the slice's state, and on every worker whether main runs, or how it ended
#   --logs          follow worker 0's log (Ctrl-C ends the following, not the run)
#   --stop          send SIGTERM to main on all workers: the run saves its state; the first command goes on from there
#   --list          the slices of the zone
#   --dry-run       print the commands and run nothing
#   --              everything after this goes to main
#
# On the workers it writes ~/tsdfm_run.tar.gz and ~/tsdfm_run: code, venv, main.log, main.pid, and main.exit once main
# has ended.
set -euo pipefail

fail() {
  printf 'tpu_pod.sh: %s\n' "$1" >&2
  exit 2
}
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || fail "bash $BASH_VERSION is too old: install 4.4 or newer"

name="" zone="" project="" commit=HEAD action=start dry_run="" for_main=()
while (($#)); do
  case $1 in
    --name=* | --zone=* | --project=* | --commit=*)
      key=${1%%=*}
      declare "${key#--}=${1#*=}"
      ;;
    --name | --zone | --project | --commit) fail "$1 has no value: options are written $1=value" ;;
    --status | --logs | --stop | --list) action=${1#--} ;;
    --dry-run) dry_run=1 ;;
    -h | --help)
      sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p;}' "$0"
      exit
      ;;
    --)
      for_main+=("${@:2}")
      break
      ;;
    *) for_main+=("$1") ;;
  esac
  shift
done

[[ -n $zone ]] || fail "--zone is missing: give the zone of the slice, such as --zone=us-central2-b"
[[ -n $name || $action == list ]] || fail "--name is missing: give the name of the slice; --list shows those that there are"
if [[ $action != start ]] && ((${#for_main[@]})); then fail "'${for_main[0]}' goes to main, and --$action does not run it: leave it out"; fi

run() { # run the command, or print it in a dry run
  local line
  if [[ -n $dry_run ]]; then
    line=$(printf '%q ' "$@")
    printf '%s\n' "${line% }"
  else
    "$@"
  fi
}

where=(--zone="$zone")
[[ -z $project ]] || where+=(--project="$project")
tpu=(gcloud compute tpus tpu-vm)

on_workers() { # on_workers WORKER SCRIPT [ARGUMENT…]: run a bash script with arguments on one worker, or on all
  local remote
  remote=$(printf '%q ' bash -c "$2" tpu_pod.sh "${@:3}")
  run "${tpu[@]}" ssh "$name" "${where[@]}" --worker="$1" --command="${remote% }"
}

# The scripts below run on the workers, each after this prelude.
# shellcheck disable=SC2016 # every $ is for the worker's own shell
prelude='
set -euo pipefail
mkdir -p ~/tsdfm_run
cd ~/tsdfm_run
pid=$(cat main.pid 2>/dev/null || true)
running() { [ -n "$pid" ] && grep -qa tsdfm_jax.main "/proc/$pid/cmdline" 2>/dev/null; }
'
# shellcheck disable=SC2016
install="$prelude"'
if running; then echo "main runs already (process $pid): stop it by --stop first" >&2; exit 1; fi
rm -rf code
mkdir code
tar -xzf ~/tsdfm_run.tar.gz -C code
for python in python3.13 python3.12 python3.11 python3 ""; do
  "${python:-false}" -c "import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))" 2>/dev/null && break
done
if [ -z "$python" ]; then echo "no Python from 3.11 to 3.13 with venv: sudo apt-get install python3.11-venv" >&2; exit 1; fi
[ -x venv/bin/python ] || "$python" -m venv venv
cd code
../venv/bin/python -m pip install --quiet --editable ".[tpu,demo]"
'
# shellcheck disable=SC2016
start="$prelude"'
rm -f main.pid main.exit
cd code
nohup setsid bash -c "
  ../venv/bin/python -m tsdfm_jax.main \"\$@\" &
  echo \$! >../main.pid
  code=0
  wait \$! || code=\$?
  echo \$code >../main.exit
" main "$@" >>../main.log 2>&1 </dev/null &
for _ in $(seq 100); do [ -s ../main.pid ] && break; sleep 0.1; done
[ -s ../main.pid ] || { echo "main did not start: --logs says why" >&2; exit 1; }
echo "main started (process $(cat ../main.pid))"
'
# shellcheck disable=SC2016
status="$prelude"'
if running; then echo "main runs (process $pid)"
elif [ -s main.exit ]; then echo "main ended with exit code $(cat main.exit)"
elif [ -n "$pid" ]; then echo "main was killed, or the worker restarted"
else echo "main has not been started"
fi
'
# shellcheck disable=SC2016
stop="$prelude"'
if ! running; then echo "main does not run"; exit 0; fi
kill -TERM "$pid"
for _ in $(seq 1200); do
  if ! running; then
    # The shell that waits for main writes the code a moment later.
    for _ in $(seq 100); do [ -s main.exit ] && break; sleep 0.1; done
    echo "main stopped, exit code $(cat main.exit)"
    exit 0
  fi
  sleep 0.1
done
echo "main is still saving its state (process $pid): look again by --status" >&2
exit 1
'

case $action in
  list) run "${tpu[@]}" list "${where[@]}" ;;
  status)
    run "${tpu[@]}" describe "$name" "${where[@]}" --format="value(state)"
    on_workers all "$status"
    ;;
  logs) on_workers 0 'exec tail -n 100 -F ~/tsdfm_run/main.log' ;;
  stop) on_workers all "$stop" ;;
  start)
    given=" ${for_main[*]%%=*} " workdir=""
    for argument in "${for_main[@]}"; do [[ $argument != --workdir=* ]] || workdir=${argument#*=}; done
    [[ $given == *" --config "* ]] || fail "--config is missing: try --config=configs/quickstart.py"
    [[ $workdir == /* ]] || fail "--workdir=$workdir is not a path from the root: name one that all workers share, such as --workdir=/mnt/shared/runs/mine"
    root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
    sha=$(git -C "$root" rev-parse --verify --quiet "$commit^{commit}") || fail "--commit=$commit is no commit of $root: try --commit=HEAD"
    changes=$(git -C "$root" status --porcelain --untracked-files=no)
    [[ -z $changes ]] || printf 'tpu_pod.sh: what has changed since %s is not committed, and stays here\n' "${sha:0:12}" >&2
    archive="${TMPDIR:-/tmp}/tsdfm-$sha.tar.gz"
    [[ -n $dry_run ]] || trap 'rm -f -- "$archive"' EXIT
    run git -C "$root" archive --format=tar.gz --output="$archive" "$sha"
    run "${tpu[@]}" scp "$archive" "$name:tsdfm_run.tar.gz" "${where[@]}" --worker=all
    on_workers all "$install"
    on_workers all "$start" "${for_main[@]}" --multihost
    ;;
esac
