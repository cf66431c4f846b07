#!/bin/sh
# Makes this instance a cell of Kip: https://github.com/elotl/kip
# cloud-init runs it at every boot.
set -eu

# An instance that cannot be a cell is of no use, and costs money.
trap 'test $? = 0 || { echo "kip: this instance cannot be a cell" >/dev/console; systemctl --no-block poweroff; }' EXIT

# The image's own way to be a node of a cluster. Its units are files in /etc, which cannot be masked.
for unit in nodeadm-boot-hook nodeadm-config nodeadm-run kubelet containerd; do
  mkdir -p /etc/systemd/system/$unit.service.d
  printf '[Unit]\nConditionPathExists=/nonexistent/kip\n' >/etc/systemd/system/$unit.service.d/kip.conf
done
systemctl daemon-reload
systemctl stop --no-block nodeadm-boot-hook nodeadm-config nodeadm-run kubelet containerd 2>/dev/null || true

if ! test -e /opt/kip/complete; then
  case $(uname -m) in
{{- range .}}
  {{.Machine}}) url='{{.URL}}' sum={{.SHA256}} ;;
{{- end}}
  *) echo "kip: there is no software for $(uname -m)" >/dev/console; exit 1 ;;
  esac
  archive=/var/tmp/kip-software
  curl --fail --silent --show-error --location --retry 8 --retry-connrefused --max-time 240 --output $archive "$url" 2>/dev/console
  echo "$sum  $archive" | sha256sum --check --status || { echo "kip: $url is not what it should be" >/dev/console; exit 1; }
  mkdir -p /opt/kip
  tar --extract --gzip --no-same-owner --directory=/opt/kip --file=$archive
  rm $archive
  # What the image has, where the agent looks for it.
  for program in kubelet containerd containerd-shim-runc-v2 ctr runc; do
    ln -sf "$(command -v $program)" /opt/kip/bin/$program
  done
  touch /opt/kip/complete
fi

cat >/etc/systemd/system/kip-cell.service <<'UNIT'
[Unit]
Description=The agent of a Kip cell
After=network-online.target

[Service]
ExecStart=/opt/kip/bin/kip-cell
Restart=always
RestartSec=1
# Containers outlive the agent, and what runs them is started anew with it.
KillMode=process
ExecStopPost=-/bin/sh -c 'for p in kubelet kube-proxy containerd kip-snapshotter; do pkill -x $p; done'
# The agent leaves it what the pod's files are served through.
FileDescriptorStoreMax=1
NotifyAccess=main
Delegate=yes
LimitNOFILE=1048576
TasksMax=infinity
OOMScoreAdjust=-999
StandardOutput=journal+console
StandardError=journal+console
UNIT
systemctl daemon-reload
systemctl --no-block start kip-cell.service
