# run: a Ray of this job's nodes, then the driver on the first one.
# join: nodes that come and go beside it; they follow the run's Ray, also to another head.

set -euo pipefail

state="$run_dir.ray" # the run directory itself is made by the run
address_file="$state/address"
mkdir -p "$state"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$state/token"
export PYTHONUNBUFFERED=1 # lines of the log as they are written

log() { printf '%s %s: %s\n' "$(date '+%F %T')" "$job_name" "$*" >&2; }

node_options=(--num-cpus="$cpus_per_node" --num-gpus="$gpus_per_node" --disable-usage-stats --block)
# A node that fails, or a Ray that ends on it, is the run's to heal: the others stay.
step_options=(--ntasks-per-node=1 --cpus-per-task="$cpus_per_node" --no-kill --kill-on-bad-exit=0)

join_run() {
  local deadline=$((SECONDS + start_timeout_s)) address
  while [[ ! -s $address_file ]]; do
    if ((SECONDS > deadline)); then
      log "no run has written $address_file within $start_timeout_s s; submit the run first"
      exit 1
    fi
    sleep 2
  done
  while address=$(cat "$address_file" 2>/dev/null); do
    log "joining $address"
    srun "${step_options[@]}" --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
      ray start --address="$address" "${node_options[@]}" || log "the Ray at $address ended"
    sleep 5 # a run that is over takes its address away
  done
  log "the run is over"
}

driver=
over=
steps=()

# shellcheck disable=SC2329 # the traps call it
interrupt() { # the driver ends within seconds, and its run can be resumed
  over=$1
  log "$1"
  if [[ -n $driver ]]; then kill -TERM "$driver" 2>/dev/null || true; fi
}

wait_for() { # a signal with a trap ends `wait` early
  local code=0
  while :; do
    code=0
    wait "$1" || code=$?
    kill -0 "$1" 2>/dev/null || break
  done
  return "$code"
}

clean_up() {
  rm -f "$address_file"
  if ((${#steps[@]})); then
    kill -TERM "${steps[@]}" 2>/dev/null || true
    wait "${steps[@]}" 2>/dev/null || true
  fi
}

make_token() { # whoever has it may run code in the run's Ray
  [[ -s $RAY_AUTH_TOKEN_PATH ]] && return
  (umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH.partial")
  mv "$RAY_AUTH_TOKEN_PATH.partial" "$RAY_AUTH_TOKEN_PATH"
}

num_alive() {
  python -c 'import ray, sys
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
print(sum(node["Alive"] for node in ray.nodes()))' "$1" 2>/dev/null || echo 0
}

start_ray() {
  local nodes head head_ip port address
  mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  head=${nodes[0]}
  head_ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address)
  head_ip=${head_ip%% *}
  port=$((20000 + SLURM_JOB_ID % 10000)) # two jobs may share a node
  address=$head_ip:$port
  log "a Ray of ${#nodes[@]} nodes at $address"
  srun "${step_options[@]}" --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --node-ip-address="$head_ip" --port="$port" --include-dashboard=false \
    --temp-dir="/tmp/ray-$SLURM_JOB_ID" "${node_options[@]}" &
  steps+=($!)
  wait_for_nodes "$address" 1
  if ((${#nodes[@]} > 1)); then
    srun "${step_options[@]}" --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) \
      --nodelist="$(IFS=,; echo "${nodes[*]:1}")" \
      ray start --address="$address" "${node_options[@]}" &
    steps+=($!)
    wait_for_nodes "$address" "${#nodes[@]}"
  fi
  export RAY_ADDRESS=$address
  printf '%s' "$address" >"$address_file.partial"
  mv "$address_file.partial" "$address_file"
}

wait_for_nodes() {
  local deadline=$((SECONDS + start_timeout_s))
  until (($(num_alive "$1") >= $2)); do
    if [[ -n $over ]]; then finish 130; fi
    if ((SECONDS > deadline)); then
      log "not all of $2 nodes joined the Ray at $1 within $start_timeout_s s; look at their lines above"
      finish 1
    fi
    sleep 2
  done
}

finish() { # a run that failed, and one whose time is over, begins anew, on fresh nodes
  local code=$1 failures=0
  clean_up
  if ((code == 1)); then
    failures=$(($(cat "$state/failures" 2>/dev/null || echo 0) + 1))
    echo "$failures" >"$state/failures"
  elif ((code == 0)); then
    rm -f "$state/failures"
  fi
  if [[ $over == "the time is over" ]] || ((code == 1 && failures <= retries)); then
    log "status $code; it goes on in a new start of this job"
    scontrol requeue "$SLURM_JOB_ID"
  fi
  exit "$code"
}

if [[ ${1:-run} == join ]]; then
  join_run
  exit 0
fi
trap 'interrupt "the time is over"' USR1
trap 'interrupt "it was ended"' TERM INT
make_token
start_ray
bash -c "exec $command" &
driver=$!
code=0
wait_for "$driver" || code=$?
log "the run ended with status $code"
finish "$code"
