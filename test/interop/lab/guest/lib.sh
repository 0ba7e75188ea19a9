# Functions for commands in a guest: . /lab/lib.sh
nqn=${nqn:-nqn.2014-08.org.example:lab}
nvmet=/sys/kernel/config/nvmet

# rxe_up: soft RoCE on eth0, and the NVMe/RDMA host
rxe_up() {
  modprobe -a rdma_cm ib_uverbs nvme-rdma rdma_rxe ext4
  rdma link show rxe0/1 >/dev/null 2>&1 || rdma link add rxe0 type rxe netdev eth0
}

# target_up ADDRESS MIB: an nvmet target with one namespace in memory
target_up() {
  rxe_up; modprobe -a configfs nvmet nvmet-rdma; modprobe brd rd_nr=1 rd_size=$(($2 * 1024))
  mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
  s=$nvmet/subsystems/$nqn p=$nvmet/ports/1
  mkdir -p "$s/namespaces/1" "$p"
  echo 1 > "$s/attr_allow_any_host"; echo /dev/ram0 > "$s/namespaces/1/device_path"; echo 1 > "$s/namespaces/1/enable"
  echo rdma > $p/addr_trtype; echo ipv4 > $p/addr_adrfam; echo "$1" > $p/addr_traddr; echo 4420 > $p/addr_trsvcid
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
