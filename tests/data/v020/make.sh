# Makes the samples with version 0.2.0, in a folder that holds small_cartpole.py.
set -euo pipefail
XFER=${XFER:-xfer}
export OMP_NUM_THREADS=1
NETWORK="--weights none --tap stem --head flatten --train-from head --eval-episodes 4"

# Kills the process once one round is on disk.
interrupted() {
  local folder=$1
  shift
  "$XFER" train small_cartpole:task $NETWORK --output "$folder" "$@" &
  local process=$!
  until grep -q eval_return "$folder/progress.json" 2> /dev/null; do
    kill -0 "$process" || return 1
    sleep 0.01
  done
  kill -KILL "$process"
  wait "$process" || true
  test ! -e "$folder/result.json"
}

"$XFER" train small_cartpole:task $NETWORK --frames 400 --steps 150 --output runs/finished
interrupted runs/imitation --rounds 2 --frames 200 --steps 40
interrupted runs/ppo --algorithm ppo --rounds 2 --total-frames 2048 --environments 4 --rollout-steps 64 --vectorize sync

"$XFER" export runs/finished --targets eager,torchscript,onnx-fp32,onnx-int8 --output runs/finished.bundle
"$XFER" verify runs/finished.bundle --pairs 4 --task small_cartpole:task
"$XFER" bench runs/finished.bundle --quick --rounds 5 --threads 1 --no-whole-backbone --variants onnx --output report

rm -r runs/*/tensorboard report/*.html report/*.md  # the name of a TensorBoard file holds the machine's
for sample in finished imitation ppo finished.bundle; do
  tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C runs -c "$sample" | gzip -9n > "$sample.tar.gz"
done
gzip -9nk report/report.json && mv report/report.json.gz .
