"""Files that start a run on a cluster: a RayJob for KubeRay, a batch script for SLURM."""
