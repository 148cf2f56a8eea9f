#!/bin/sh
# Run a command under a kernel that has TLS: this one, or else Debian's in a virtual machine, which sees the files of
# this machine but cannot write them ($TMPDIR is in its memory).  As root on Debian it installs what that takes;
# elsewhere it says what is missing, and the tests are skipped.
set -eu

if grep -qw tls /proc/sys/net/ipv4/tcp_available_ulp 2>/dev/null; then
    exec "$@"
fi

made="$PWD/build/kernel"
modules="virtio_pci 9pnet_virtio 9p aesni_intel gcm chacha20poly1305 tls"

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1 || [ "$(dpkg --print-architecture)" != amd64 ]; then
    echo "this kernel has no TLS, and no other one can be installed here, so the tests that need it are skipped"
    exit 0
fi
missing=""
for pair in qemu-system-x86_64:qemu-system-x86 busybox:busybox-static depmod:kmod cpio:cpio; do
    command -v "${pair%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
if [ -n "$missing" ]; then
    echo "installing:$missing"
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

package=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
version=${package#linux-image-}
if [ ! -e "$made/$version.cpio.gz" ]; then
    rm -rf "$made" && mkdir -p "$made/initial/bin"
    (cd "$made" && apt-get download -qq "$package" 2>/dev/null && dpkg -x linux-image-*.deb . && rm linux-image-*.deb)
    depmod -b "$made" "$version"
    for module in $modules; do
        modprobe -d "$made" -S "$version" --show-depends "$module"
    done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' >"$made/files"
    while read -r file; do
        cp "$file" "$made/initial/"
        echo "insmod /$(basename "$file")"
    done <"$made/files" >"$made/initial/insert"
    cp "$(command -v busybox)" "$made/initial/bin/"
    cat >"$made/initial/init" <<'INIT'
#!/bin/busybox sh
exec 2>&1
for name in sh sed mount mkdir insmod chroot ip poweroff; do /bin/busybox ln -s busybox /bin/$name; done
mkdir -p /proc /machine
mount -t proc proc /proc
. /insert
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro files /machine
for pair in proc:proc sysfs:sys devtmpfs:dev tmpfs:run tmpfs:var/tmp; do mount -t ${pair%:*} none /machine/${pair#*:}; done
mkdir -p /machine/dev/shm /machine/dev/pts
mount -t tmpfs none /machine/dev/shm
ip link set lo up
chroot /machine /bin/sh "$(sed -n 's/.*command=\([^ ]*\).*/\1/p' /proc/cmdline)"
echo "status=$?"
poweroff -f
INIT
    chmod +x "$made/initial/init"
    (cd "$made/initial" && find . | cpio --quiet -o -H newc) | gzip -1 >"$made/$version.cpio.gz"
fi

{
    echo "cd '$PWD' && export HOME=/run TMPDIR=/run LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PATH='$PATH'"
    printf "exec"
    for word in "$@"; do printf " '%s'" "$word"; done
    echo
} >"$made/command"
timeout 900 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 3G -nodefaults -nographic -no-reboot \
    -kernel "$made/boot/vmlinuz-$version" -initrd "$made/$version.cpio.gz" \
    -append "console=ttyS0 loglevel=3 panic=-1 command=$made/command" \
    -fsdev local,id=files,path=/,security_model=none,readonly=on,multidevs=remap \
    -device virtio-9p-pci,fsdev=files,mount_tag=files -serial stdio </dev/null | tr -d '\r' | tee "$made/output"
grep -qx status=0 "$made/output"
