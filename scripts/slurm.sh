#!/bin/bash
# A training over the nodes of a Slurm job: sbatch scripts/slurm.sh mydata.yaml --out runs/large
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
set -eu
# srun needs no ssh. The scheduler runs on the first node, and beside each rank a server; a rank that
# fails ends the job (--kill-on-bad-exit), and so does a rank that hangs, at the job's time limit.
export DMLC_PS_ROOT_URI=$(hostname --ip-address | awk '{print $1}')
export DMLC_PS_ROOT_PORT=$((20000 + SLURM_JOB_ID % 20000))
export DMLC_NUM_WORKER=$SLURM_NTASKS DMLC_NUM_SERVER=$SLURM_NTASKS
DMLC_ROLE=scheduler DMLC_NODE_HOST=$DMLC_PS_ROOT_URI python -c "import segtrain, mxnet" &
srun --kill-on-bad-exit=1 bash -c '
  export DMLC_NODE_HOST=$(hostname --ip-address | cut -d" " -f1)
  DMLC_ROLE=server OMP_NUM_THREADS=1 python -c "import segtrain, mxnet" &
  DMLC_ROLE=worker SEGTRAIN_RANK=$SLURM_PROCID exec segtrain train "$@"
' segtrain "$@"
