# Functions for commands in a guest: . /lab/lib.sh
nqn=${nqn:-nqn.2014-08.org.example:lab}
nvmet=/sys/kernel/config/nvmet

# rxe_up: soft RoCE on eth0, and the NVMe/RDMA host
rxe_up() {
  modprobe -a rdma_cm ib_uverbs nvme-rdma rdma_rxe ext4 xfs
  rdma link show rxe0/1 >/dev/null 2>&1 || rdma link add rxe0 type rxe netdev eth0
}

# target_up ADDRESS MIB: an nvmet target with one namespace in memory
target_up() {
  rxe_up; modprobe -a configfs nvmet nvmet-rdma; modprobe brd rd_nr=1 rd_size=$(($2 * 1024))
  mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
  s=$nvmet/subsystems/$nqn p=$nvmet/ports/1
  mkdir -p "$s/namespaces/1" "$p"
  echo 1 > "$s/attr_allow_any_host"; echo /dev/ram0 > "$s/namespaces/1/device_path"; echo 1 > "$s/namespaces/1/enable"
  case $1 in *:*) adrfam=ipv6 ;; *) adrfam=ipv4 ;; esac
  echo rdma > $p/addr_trtype; echo $adrfam > $p/addr_adrfam; echo "$1" > $p/addr_traddr; echo 4420 > $p/addr_trsvcid
  ln -s "$s" "$p/subsystems/$nqn"
}

target_down() {
  rm "$nvmet/ports/1/subsystems/$nqn"; rmdir $nvmet/ports/1
  echo 0 > "$nvmet/subsystems/$nqn/namespaces/1/enable"
  rmdir "$nvmet/subsystems/$nqn/namespaces/1" "$nvmet/subsystems/$nqn"
}

# connect ADDRESS [nvme connect options]: prints the namespace's block device
connect() {
  address=$1; shift
  nvme connect -t rdma -a "$address" -s 4420 -n "$nqn" "$@" >/dev/null || return 1
  for _ in $(seq 100); do
    for d in /dev/nvme[0-9]*n1; do [ ! -b "$d" ] || { echo "$d"; return 0; }; done
    sleep 0.1
  done
  echo "connected, but no block device after 10 s" >&2; return 1
}

# impair "loss 1% duplicate 0.5%": netem does that to what eth0 sends and, by way of ifb0, to what it receives.
# impair DIRECTION "...": only to what it sends (out) or receives (in). impair off: to nothing.
impair() {
  tc qdisc del dev eth0 root 2>/dev/null || true; tc qdisc del dev eth0 ingress 2>/dev/null || true
  direction=both
  case $1 in off) return ;; in | out) direction=$1; shift ;; esac
  modprobe -a sch_netem sch_ingress ifb act_mirred cls_matchall
  # shellcheck disable=SC2086
  [ $direction = in ] || tc qdisc add dev eth0 root netem limit 10000 $1
  [ $direction != out ] || return 0
  ip link show ifb0 >/dev/null 2>&1 || ip link add ifb0 type ifb
  ip link set ifb0 up mtu 9000
  tc qdisc add dev eth0 ingress
  tc filter add dev eth0 parent ffff: matchall action mirred egress redirect dev ifb0
  # shellcheck disable=SC2086
  tc qdisc replace dev ifb0 root netem limit 10000 $1
}

# impaired: how many packets netem has dropped, one line for what is sent and one for what is received
impaired() { tc -s qdisc show | grep -A1 netem; }
