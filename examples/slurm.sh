#!/usr/bin/env bash
# Training by several processes under Slurm; see docs/processes.md.
#
#   sbatch examples/slurm.sh --data DIR --out DIR --cache DIR [more options of smooseg train]
#
# The folders must be seen by all machines. Set the numbers below as your cluster has them, and SMOOSEG to the program where
# it is not in the PATH. Submitted again, it goes on from the last checkpoint.
#SBATCH --job-name=smooseg
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@60
set -euo pipefail

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
LOCAL_WORLD_SIZE=$((SLURM_NTASKS / SLURM_NNODES))
export MASTER_ADDR MASTER_PORT LOCAL_WORLD_SIZE

srun --kill-on-bad-exit=1 "${SMOOSEG:-smooseg}" train --threads "$SLURM_CPUS_PER_TASK" --resume "$@"
