#!/bin/bash
# A training over the nodes of a Slurm job, one rank on each with all of its cards:
#
#   sbatch scripts/slurm.sh train mydata.yaml --out runs/large
#
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
set -euo pipefail

# `segtrain launch` runs here, on the first node, and starts its processes by srun where it would by
# ssh: a rank that dies or hangs ends all of them, and so the job.
hosts=$(mktemp)
trap 'rm -f "$hosts"' EXIT
scontrol show hostnames "$SLURM_JOB_NODELIST" > "$hosts"

# srun is given the node, and the line that a shell there is to run. --overlap: a rank and a server share
# a node's cores. srun doesn't take --cpus-per-task from sbatch by itself.
step="srun --nodes=1 --ntasks=1 --overlap --cpus-per-task=${SLURM_CPUS_PER_TASK:-1}"
export SEGTRAIN_SCRIPT="sbatch scripts/slurm.sh" # what begins the command to go on with
segtrain launch -n "$SLURM_JOB_NUM_NODES" --hosts "$hosts" \
  --ssh "bash -c 'exec $step --nodelist=\"\$0\" bash -c \"\$1\"'" -- "$@"
