#!/usr/bin/env bash
# Runs the main command on a TPU slice of a GKE cluster, as the JobSet of launch/gke_jobset.yaml.
#
#   launch/gke_jobset.sh --name=N --image=I --accelerator=A --topology=T --claim=C [options]
#                        --config=FILE --workdir=DIR [any other flag of main]
#   launch/gke_jobset.sh --name=N --status | --logs | --stop
#
#   --name=N          name of the JobSet; give another one, or --stop the old one, to start another run
#   --image=I         an image with this repository as its working directory and python in its PATH; its Dockerfile may be:
#                       FROM python:3.12-slim
#                       COPY . /app
#                       WORKDIR /app
#                       RUN pip install -e '.[tpu,demo]'
#   --accelerator=A   such as tpu-v5-lite-podslice or tpu-v6e-slice
#   --topology=T      such as 4x4
#   --chips=K         chips per host (default 4)
#   --claim=C         the PersistentVolumeClaim that all hosts share
#   --mount=M         where it is mounted (default /mnt/shared); DIR must lie below it
#   --grace=S         seconds for saving the state before a host is stopped (default 300)
#   --restarts=R      how often the run restarts by itself after a host was stopped or main failed (default 20)
#   --namespace=NS    the namespace, if it is not kubectl's default
#   --status          the JobSet and its pods
#   --logs            follow host 0's log
#   --stop            delete the JobSet: the run saves its state and ends; the first command goes on from there
#   --dry-run         print the manifest, or the command, and run nothing
#   --                everything after this goes to main
set -euo pipefail

fail() {
  printf 'gke_jobset.sh: %s\n' "$1" >&2
  exit 2
}
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || fail "bash $BASH_VERSION is too old: install 4.4 or newer"

name="" image="" accelerator="" topology="" chips=4 claim="" mount=/mnt/shared grace=300 restarts=20 namespace=""
action=start dry_run="" for_main=()
while (($#)); do
  case $1 in
    --name=* | --image=* | --accelerator=* | --topology=* | --chips=* | --claim=* | --mount=* | --grace=* | --restarts=* | --namespace=*)
      key=${1%%=*}
      declare "${key#--}=${1#*=}"
      ;;
    --name | --image | --accelerator | --topology | --chips | --claim | --mount | --grace | --restarts | --namespace)
      fail "$1 has no value: options are written $1=value"
      ;;
    --status | --logs | --stop) action=${1#--} ;;
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

[[ -n $name ]] || fail "--name is missing: give the JobSet a name, such as --name=tsdfm"
[[ $name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] || fail "--name=$name is no name for a JobSet: take at most 40 of a-z, 0-9 and -, such as --name=tsdfm"

kubectl=(kubectl)
[[ -z $namespace ]] || kubectl+=(--namespace="$namespace")
mine=--selector="jobset.sigs.k8s.io/jobset-name=$name"
run() { # run the command, or print it in a dry run
  local line
  if [[ -n $dry_run ]]; then
    line=$(printf '%q ' "$@")
    printf '%s\n' "${line% }"
  else
    "$@"
  fi
}

if [[ $action != start ]]; then
  ((${#for_main[@]} == 0)) || fail "'${for_main[0]}' goes to main, and --$action does not run it: leave it out"
  case $action in
    status)
      run "${kubectl[@]}" get jobset "$name"
      run "${kubectl[@]}" get pods "$mine" --output=wide
      ;;
    logs) run "${kubectl[@]}" logs --follow --tail=100 "$mine,batch.kubernetes.io/job-completion-index=0" ;;
    stop) run "${kubectl[@]}" delete jobset "$name" ;;
  esac
  exit
fi

given=" ${for_main[*]%%=*} " workdir=""
for argument in "${for_main[@]}"; do [[ $argument != --workdir=* ]] || workdir=${argument#*=}; done
for key in image accelerator topology claim; do [[ -n ${!key} ]] || fail "--$key is missing: --help says what it is"; done
for key in chips grace restarts; do [[ ${!key} =~ ^[0-9]{1,6}$ ]] || fail "--$key=${!key} is not a whole number: try --$key=4"; done
# Plain words only: anything else could be read as YAML.
for key in image accelerator claim mount; do
  [[ ${!key} =~ ^[A-Za-z0-9/_.:@-]+$ ]] || fail "--$key=${!key} has a character that such a name cannot have: check it"
done
[[ $topology =~ ^[1-9][0-9]{0,3}(x[1-9][0-9]{0,3}){1,2}$ ]] || fail "--topology=$topology is not like 4x4 or 2x2x4: take the node pool's"
[[ $given == *" --config "* ]] || fail "--config is missing: try --config=configs/quickstart.py"
[[ $workdir == "$mount"/* ]] || fail "--workdir=$workdir is not below $mount, which the hosts share: try --workdir=$mount/runs/mine"

total=$((${topology//x/ * }))
((chips > 0 && total % chips == 0)) || fail "--chips=$chips does not divide the $total chips of $topology: give the chips that one host has"
hosts=$((total / chips))
((hosts == 1)) || for_main+=(--multihost)

quote() { # quote TEXT: as a YAML string in which Kubernetes expands no $(VARIABLE)
  local text=$1 dollars='$$'
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\n'/\\n}
  text=${text//$'\t'/\\t}
  [[ $text != *[[:cntrl:]]* ]] || fail "$(printf '%q' "$1") has a control character: leave it out"
  printf '"%s"' "${text//\$/"$dollars"}"
}

command=""
for argument in python -m tsdfm_jax.main "${for_main[@]}"; do
  text=$(quote "$argument")
  command+=", $text"
done

manifest=$(<"$(dirname -- "${BASH_SOURCE[0]}")/gke_jobset.yaml")
fill() { # fill NAME VALUE: replace every ${NAME} in the manifest
  manifest=${manifest//"\${$1}"/"$2"}
}
fill NAME "$name"
fill RESTARTS "$restarts"
fill HOSTS "$hosts"
fill GRACE "$grace"
fill ACCELERATOR "$accelerator"
fill TOPOLOGY "$topology"
fill IMAGE "$image"
fill CHIPS "$chips"
fill MOUNT "$mount"
fill CLAIM "$claim"
fill COMMAND "[${command#, }]"

if [[ -n $dry_run ]]; then
  printf '%s\n' "$manifest"
else
  "${kubectl[@]}" apply --filename=- <<<"$manifest"
fi
