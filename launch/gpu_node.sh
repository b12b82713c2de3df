#!/usr/bin/env bash
# Runs the main command on this machine, with one GPU or many.
#
#   launch/gpu_node.sh [options] --config=FILE [--workdir=DIR] [any other flag of main]
#
# One process uses all GPUs. With --processes=N there are N processes, each with its share, joined by jax.distributed;
# if one fails, the script stops the others and exits with its code. Ctrl-C and SIGTERM are passed on, so that the run
# saves its state; the same command goes on from there. If you set CUDA_VISIBLE_DEVICES, only those GPUs are used.
#
#   --processes=N   processes on this machine; N divides the number of GPUs (default 1)
#   --cpu           no GPUs: everything on the CPU
#   --port=P        the port where the processes meet (default: a free one)
#   --grace=S       seconds that the others have to stop after one failed, before they are killed (default 60)
#   --dry-run       print the commands and start nothing
#   --              everything after this goes to main
#
# XLA_PYTHON_CLIENT_MEM_FRACTION is 0.92 unless you have set it: the run is assumed to have its GPUs to itself.
set -euo pipefail

fail() {
  printf 'gpu_node.sh: %s\n' "$1" >&2
  exit 2
}
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || fail "bash $BASH_VERSION is too old: install 4.4 or newer"

whole() { # whole NAME VALUE LEAST EXAMPLE: fail unless VALUE is a whole number, at least LEAST
  if ! [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] || (($2 < $3)); then fail "--$1=$2 is not a whole number from $3: try --$1=$4"; fi
}

print_command() {
  local line
  line=$(printf '%q ' "$@")
  printf '%s\n' "${line% }"
}

processes=1 cpu="" port="" grace=60 dry_run="" for_main=()
while (($#)); do
  case $1 in
    --processes=* | --port=* | --grace=*)
      name=${1%%=*}
      declare "${name#--}=${1#*=}"
      ;;
    --processes | --port | --grace)
      (($# > 1)) || fail "$1 has no value: write $1=2"
      declare "${1#--}=$2"
      shift
      ;;
    --cpu) cpu=1 ;;
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

whole processes "$processes" 1 2
whole grace "$grace" 0 60
[[ -z $port ]] || whole port "$port" 1 12345
[[ " ${for_main[*]%%=*} " == *" --config "* ]] || fail "--config is missing: try --config=configs/quickstart.py"
[[ -n $dry_run ]] || command -v python >/dev/null || fail "no python in PATH: activate the virtual environment"

gpus=()
find_gpus() {
  local found
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
    ((${#gpus[@]})) || fail "CUDA_VISIBLE_DEVICES is empty: unset it, or run without GPUs by --cpu"
    return
  fi
  command -v nvidia-smi >/dev/null || fail "no nvidia-smi in PATH: install the NVIDIA driver, or run without GPUs by --cpu"
  found=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>&1) || fail "nvidia-smi fails (${found%%$'\n'*}): mend the driver, or run without GPUs by --cpu"
  mapfile -t gpus <<<"$found"
  [[ -n ${gpus[0]} ]] || fail "nvidia-smi finds no GPU: run without by --cpu"
}

settings=()
if [[ -n $cpu ]]; then
  settings+=(JAX_PLATFORMS=cpu)
else
  find_gpus
  ((${#gpus[@]} % processes == 0)) || fail "--processes=$processes does not divide ${#gpus[@]} GPUs: take a number that does"
  [[ -n ${XLA_PYTHON_CLIENT_MEM_FRACTION+set} ]] || settings+=(XLA_PYTHON_CLIENT_MEM_FRACTION=0.92)
fi

if ((processes == 1)); then
  main=(env "${settings[@]}" python -m tsdfm_jax.main "${for_main[@]}")
  if [[ -n $dry_run ]]; then
    print_command "${main[@]}"
    exit
  fi
  exec "${main[@]}"
fi

free_port() { # print a port at which nothing listens
  local candidate=$((20000 + $$ % 10000))
  while (exec 3<>"/dev/tcp/127.0.0.1/$candidate") 2>/dev/null; do candidate=$((candidate + 1)); done
  printf '%s' "$candidate"
}

command_of() { # command_of I: put the command of process I into the array main
  local share=$((${#gpus[@]} / processes)) own=("${settings[@]}") mine ids
  if [[ -z $cpu ]]; then
    mine=$(IFS=, && printf '%s' "${gpus[*]:$1 * share:share}")
    ids=$(seq -s, 0 $((share - 1)))
    # Inside a Slurm job JAX uses one GPU per process, whatever is visible, unless JAX_LOCAL_DEVICE_IDS is set.
    own+=(CUDA_VISIBLE_DEVICES="$mine" JAX_LOCAL_DEVICE_IDS="$ids")
  fi
  main=(env "${own[@]}" python -m tsdfm_jax.main "${for_main[@]}"
    --multihost --coordinator="127.0.0.1:$port" --processes="$processes" --process="$1")
}

port=${port:-$(free_port)}
if [[ -n $dry_run ]]; then
  for ((i = 0; i < processes; i++)); do
    command_of "$i"
    print_command "${main[@]}"
  done
  exit
fi

# The traps only record the signal: the loop below passes it on, when it knows every process.
signalled="" pids=()
trap 'signalled=INT' INT
trap 'signalled=TERM' TERM
for ((i = 0; i < processes && ${#signalled} == 0; i++)); do
  command_of "$i"
  set -m # each in its own process group: a Ctrl-C reaches it once, from here, and not from the terminal as well
  "${main[@]}" </dev/null &
  pids+=("$!")
  set +m
done

code=0 asked="" failed="" deadline=0 left=("${!pids[@]}")
tell() { # tell SIGNAL: pass it on to all processes that are left
  local i
  for i in "${left[@]}"; do kill -s "$1" "${pids[i]}" 2>/dev/null || true; done
}

ended() { # ended I STATUS: record how process I ended, and stop the others after a failure
  (($2 == 0)) && return
  if ((code == 0)) || [[ -n $asked && -z $failed && ($code == 130 || $code == 143) ]]; then code=$2; fi
  [[ -z $asked && -z $failed ]] || return 0
  failed=1 deadline=$((SECONDS + grace))
  printf 'gpu_node.sh: process %s ended with exit code %s: stopping the others\n' "$1" "$2" >&2
  tell TERM
}

while ((${#left[@]})); do
  if [[ -n $signalled ]]; then
    asked=1
    tell "$signalled"
    signalled=""
  fi
  if [[ -n $failed ]] && ((SECONDS >= deadline)); then tell KILL; fi
  for i in "${left[@]}"; do
    kill -0 "${pids[i]}" 2>/dev/null && continue
    status=0
    wait "${pids[i]}" || status=$?
    unset "left[i]"
    ended "$i" "$status"
  done
  # A signal to the whole group ends the sleep too, and must not end the script.
  ((${#left[@]} == 0)) || sleep 0.2 || true
done
exit "$code"
