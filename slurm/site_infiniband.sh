# NVIDIA nodes with InfiniBand (DGX, HGX): how NCCL finds the network. A template: check each name with your site.
# In a sweep file:  needs: {setup: ["source /path/to/slurm/site_infiniband.sh"]}

# module load cuda/13.0                      # only if the driver's libraries are not enough: torch brings CUDA
export NCCL_IB_HCA=mlx5                      # adapters by prefix; `ibdev2netdev` lists them. Leave out storage's
export NCCL_SOCKET_IFNAME=ib0,bond0,eth0     # for the first contact; the first that exists. `ip -br addr` lists them
export GLOO_SOCKET_IFNAME=eth0               # our small CPU messages (signals, JSON): exactly one, on every node
export NCCL_IB_TIMEOUT=22                    # large fabrics: retry for minutes rather than fail in seconds
# export NCCL_TOPO_FILE=/etc/nccl/topo.xml   # virtual machines hide the topology; the provider has the file
# export NCCL_DEBUG=INFO                     # when something does not work: which network it chose
