#!/bin/sh
# Runs a workload under strace and keeps what strace saw: traced.sh NAME COMMAND...
# Before it, the names that exist where workloads work are listed: strace doesn't tell whether an open made its file.
set -u
name=$1
shift
truth=/tmp/truth
mkdir -p "$truth" "/tmp/work-$name"
cd "/tmp/work-$name" || exit 1
find /tmp /home /root /var /etc /run /dev /opt/known-count -xdev >"$truth/$name.before" 2>/dev/null
calls=execve,execveat,clone,clone3,fork,vfork,chdir,fchdir,chroot,open,openat,openat2,creat,mkdir,mkdirat,symlink,symlinkat
calls=$calls,link,linkat,mknod,mknodat,rename,renameat,renameat2,unlink,unlinkat,rmdir,connect,bind,chmod,fchmod,fchmodat
calls=$calls,setuid,setgid,setreuid,setregid,setresuid,setresgid
strace -f -y -qq --seccomp-bpf -s 4096 -e signal=none -e "trace=$calls" -o "$truth/$name.log" "$@" >"$truth/$name.out" 2>&1
echo "known-count: $name ended with $?"
