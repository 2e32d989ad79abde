# AWS nodes with EFA (p4d, p5, p5en): how NCCL finds the network. A template: the AMI's own /opt/amazon is assumed.
# In a sweep file:  needs: {setup: ["source /path/to/slurm/site_efa.sh"]}

export LD_LIBRARY_PATH=/opt/amazon/ofi-nccl/lib:/opt/amazon/efa/lib:${LD_LIBRARY_PATH:-}  # the aws-ofi-nccl plugin
export FI_PROVIDER=efa
export FI_EFA_USE_HUGE_PAGE=0                # huge pages fail with forked decoders
export NCCL_SOCKET_IFNAME=^docker,lo,veth    # bootstrap: all interfaces but these
export GLOO_SOCKET_IFNAME=$(ip -o route show default | awk '{print $5; exit}')  # our small CPU messages
# export NCCL_DEBUG=INFO                     # must print "NET/OFI Selected provider is efa", else NCCL uses slow TCP
