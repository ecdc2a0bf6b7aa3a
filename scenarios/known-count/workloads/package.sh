#!/bin/sh
# A package is built, installed by apt-get (which drops its rights for what fetches it), upgraded by dpkg, purged. Root.
set -e
export DEBIAN_FRONTEND=noninteractive PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
make_package() { # VERSION
    rm -rf tree
    mkdir -p tree/DEBIAN tree/opt/known-count/bin tree/etc/known-count
    printf 'Package: known-count\nVersion: %s\nArchitecture: all\nMaintainer: LAVA <none@example.org>\nDescription: ground truth\n' "$1" >tree/DEBIAN/control
    echo /etc/known-count/settings >tree/DEBIAN/conffiles
    printf '#!/bin/sh\nset -e\nmkdir -p /var/lib/known-count\necho %s >/var/lib/known-count/version\nchmod 640 /var/lib/known-count/version\n' "$1" >tree/DEBIAN/postinst
    printf '#!/bin/sh\nset -e\n[ "$1" != purge ] || rm -rf /var/lib/known-count\n' >tree/DEBIAN/postrm
    chmod 755 tree/DEBIAN/postinst tree/DEBIAN/postrm
    echo "setting=$1" >tree/etc/known-count/settings
    printf '#!/bin/sh\necho %s\n' "$1" >tree/opt/known-count/bin/count
    chmod 755 tree/opt/known-count/bin/count
    ln -s bin/count tree/opt/known-count/count
    dpkg-deb --root-owner-group -Zgzip -b tree "known-count_$1_all.deb"
}
make_package 1
make_package 2
apt-get -q -y -o Dpkg::Use-Pty=0 install ./known-count_1_all.deb
/opt/known-count/count
dpkg -i known-count_2_all.deb
/opt/known-count/bin/count
dpkg -V known-count
dpkg -P known-count
setpriv --reuid=1000 --regid=1000 --clear-groups /usr/bin/id
/usr/bin/python3 -c 'import os; os.setgid(1000); os.seteuid(1000); os.seteuid(0); os.setresuid(1000, 1000, 0); os.seteuid(0); os.setreuid(0, 0)
try: os.setuid(1000); os.setuid(0)
except PermissionError: print("refused, as it must be")'
